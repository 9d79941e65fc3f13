# Finds the servers' programs, and installs the Debian packages that are missing; sourced, never run.
#
# Installing must not start a system-wide server: policy-rc.d says no for as long as apt runs, and PostgreSQL's package
# is told not to create its main cluster. Both are put back as they were.

# find_program NAME FOLDER...: the newest NAME in the folders (globs allowed) or on the PATH; fails when there is none.
find_program() {
    local name=$1 candidate
    shift
    for candidate in $(for folder in "$@"; do printf '%s\n' $folder/"$name"; done | sort -rV); do
        if [ -x "$candidate" ]; then echo "$candidate"; return; fi
    done
    command -v "$name"
}

postgres_program() { find_program "$1" '/usr/lib/postgresql/*/bin' '/usr/pgsql-*/bin'; }
pgbouncer_program() { find_program pgbouncer /usr/sbin /usr/bin; }
mariadb_program() { find_program "$1" /usr/sbin /usr/bin; }
rabbitmq_program() { find_program "$1" /usr/lib/rabbitmq/bin '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin'; }

# java_program: a Java of version 17 or newer.
java_program() {
    local java version
    for java in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
        [ -x "$java" ] || continue
        version=$("$java" -XX:-UsePerfData -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
        if [ "${version:-0}" -ge 17 ]; then echo "$java"; return; fi
    done
    return 1
}

# missing_packages SERVER...: the Debian packages to install for these servers.
missing_packages() {
    local server
    for server in "$@"; do
        case $server in
        postgres) postgres_program initdb >/dev/null && command -v psql >/dev/null || echo postgresql ;;
        mariadb) mariadb_program mariadbd >/dev/null && command -v mariadb >/dev/null || echo mariadb-server ;;
        pgbouncer) pgbouncer_program >/dev/null || echo pgbouncer ;;
        rabbitmq) rabbitmq_program rabbitmq-server >/dev/null || echo rabbitmq-server ;;
        kafka)
            java_program >/dev/null || echo default-jre-headless
            kafka_cached || command -v mvn >/dev/null || echo maven
            ;;
        esac
    done
}

# ensure_packages PACKAGE...: installs them as root, or says what to install.
ensure_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        die "missing: $*. Install with: apt-get install --no-install-recommends $*"
    fi
    say "installing $*"
    (without_autostart "$@") || die "apt-get could not install $*"
}

# without_autostart PACKAGE...: in a subshell, because its EXIT trap puts the policies back.
without_autostart() {
    local policy=/usr/sbin/policy-rc.d clusters=/etc/postgresql-common/createcluster.conf
    export DEBIAN_FRONTEND=noninteractive
    trap put_policies_back EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$policy" ]; then mv "$policy" "$policy.barid"; fi
    printf '#!/bin/sh\n# While the packages for the tests are being installed.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    apt-get -qq update >&2 || say "apt-get update failed, trying with the package lists at hand"
    case " $* " in
    *" postgresql "*)
        apt-get -qq install -y --no-install-recommends postgresql-common >/dev/null || return
        cp -p "$clusters" "$clusters.barid"
        echo 'create_main_cluster = false' >>"$clusters"
        ;;
    esac
    apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

put_policies_back() {
    rm -f /usr/sbin/policy-rc.d
    local kept
    for kept in /usr/sbin/policy-rc.d /etc/postgresql-common/createcluster.conf; do
        if [ -e "$kept.barid" ]; then mv "$kept.barid" "$kept"; fi
    done
}
