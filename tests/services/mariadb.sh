#!/usr/bin/env bash
# mariadb.sh DIR PORT: a private MariaDB in DIR/mariadb, flushed at each commit. Reads no configuration of the machine.
# Run again, it starts the server that was stopped. BARID_SERVICES_OPTIONS: more arguments for the server.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/lib.sh"
. "$here/packages.sh"
dir=$1 port=$2 data=$1/mariadb

create() {
    own_folder "$data" mysql
    as_user mysql mkdir "$data/tmp" # the caller's TMPDIR may be closed to this user
    as_user mysql "$(mariadb_program mariadb-install-db)" --no-defaults --datadir="$data/data" --tmpdir="$data/tmp" --skip-test-db \
        >"$dir/mariadb.out" 2>&1 || { cat "$dir/mariadb.out" >&2; die "mariadb-install-db failed"; }
    # Runs at the start; the server answers no one before it is done.
    cat >"$data/init.sql" <<EOF
CREATE USER IF NOT EXISTS '$TEST_USER'@'127.0.0.1' IDENTIFIED BY '$TEST_PASSWORD';
GRANT ALL PRIVILEGES ON *.* TO '$TEST_USER'@'127.0.0.1' WITH GRANT OPTION;
EOF
}
[ -e "$data" ] || create
launch "$dir" mariadb TERM $(as_user_words mysql) "$(mariadb_program mariadbd)" --no-defaults \
    --datadir="$data/data" --tmpdir="$data/tmp" --socket="$data/socket" --pid-file="$data/pid" --init-file="$data/init.sql" \
    --bind-address=127.0.0.1 --port="$port" --skip-name-resolve --skip-log-bin --max-connections=300 \
    --character-set-server=utf8mb4 --innodb-buffer-pool-size=64M --innodb-log-file-size=48M \
    --innodb-flush-log-at-trx-commit=1 ${BARID_SERVICES_OPTIONS-}
answers() {
    MYSQL_PWD=$TEST_PASSWORD mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" \
        --user="$TEST_USER" --connect-timeout=5 --execute='SELECT 1'
}
await "$dir" mariadb 60 answers
echo "mysql://$TEST_USER:$TEST_PASSWORD@127.0.0.1:$port/mysql" >"$dir/mariadb.url"
