# Shared by the scripts of this folder; sourced, never run.
#
# A server that was started is one file DIR/<server>.pid with "pid start-time signal". The start time comes from
# /proc, so that a process id that was given to another process since is never signalled.

# Passwords of private servers that listen on the loopback only.
readonly TEST_USER=barid TEST_PASSWORD=barid

say() { printf '%s\n' "services: $*" >&2; }
die() { printf '%s\n' "services: error: $*" >&2; exit 1; }

# start_time PID: when the process began, in clock ticks; empty when there is no such process, or only its zombie.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    stat=${stat##*) } # after the command, which may hold blanks
    # shellcheck disable=SC2086
    set -- $stat
    if [ "$1" != Z ]; then echo "${20}"; fi
}

# launch DIR NAME SIGNAL COMMAND...: starts a server in a session of its own and records it. SIGNAL is what stops it.
launch() {
    local dir=$1 name=$2 signal=$3 stop_asked=
    shift 3
    trap 'stop_asked=yes' TERM # a stop between the start and the record would leave the server behind
    setsid "$@" >>"$dir/$name.out" 2>&1 </dev/null &
    echo "$! $(start_time "$!") $signal" >"$dir/$name.pid"
    trap - TERM
    if [ -n "$stop_asked" ]; then exit 143; fi
}

# running DIR NAME: whether the recorded process still lives.
running() {
    local pid started signal
    [ -f "$1/$2.pid" ] || return 1
    read -r pid started signal <"$1/$2.pid"
    [ -n "$started" ] && [ "$(start_time "$pid")" = "$started" ]
}

# await DIR NAME SECONDS CHECK...: until the check succeeds. Ends early, with the log, when the server has died.
await() {
    local dir=$1 name=$2 deadline=$((SECONDS + $3))
    shift 3
    until "$@" >/dev/null 2>&1; do
        if ! running "$dir" "$name"; then
            tail -n 30 "$dir/$name.out" >&2 || true
            die "$name ended while it was starting"
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 30 "$dir/$name.out" >&2 || true
            die "$name did not answer in time"
        fi
        sleep 0.1
    done
}

# free_port: a loopback port that nobody listens on, below the range from which the kernel gives ports to clients.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}


# as_user_words USER: the words in front of a command that make it run as this user. Database servers refuse to run as
# root; anyone else runs them as themselves, without any words.
as_user_words() {
    if [ "$(id -u)" = 0 ]; then echo "setpriv --reuid=$1 --regid=$1 --init-groups"; fi
}

# as_user USER COMMAND...: runs it as this user, see above.
as_user() {
    local words
    words=$(as_user_words "$1")
    shift
    # shellcheck disable=SC2086
    $words "$@"
}

# own_folder FOLDER USER: makes the data folder of a server, and proves that its user can reach it.
own_folder() {
    mkdir -p "$1"
    if [ "$(id -u)" = 0 ]; then
        chown "$2:$2" "$1"
        as_user "$2" test -w "$1" || die "user $2 cannot reach $1: choose a folder below /tmp"
    fi
}

# cache_folder: what may be kept between runs (jars, nothing else).
cache_folder() { echo "${XDG_CACHE_HOME:-${HOME:?}/.cache}/barid-tests"; }
