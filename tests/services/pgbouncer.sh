#!/usr/bin/env bash
# pgbouncer.sh DIR MODE: a PgBouncer with pool_mode = MODE in front of the PostgreSQL that runs in DIR, in DIR/pgbouncer-MODE. Stopped
# with it by `down DIR`.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/lib.sh"
. "$here/packages.sh"
dir=$1 mode=$2 data=$1/pgbouncer-$2
# shellcheck disable=SC2046
ensure_packages $(missing_packages pgbouncer)
port=$(free_port)
server=$(cat "$dir/postgres.url") # postgres://user:password@host:port/database
server_port=${server##*:}
server_port=${server_port%%/*}

own_folder "$data" postgres
cat >"$data/pgbouncer.ini" <<CONFIG
[databases]
* = host=127.0.0.1 port=$server_port user=$TEST_USER password=$TEST_PASSWORD
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
pool_mode = $mode
default_pool_size = 4
ignore_startup_parameters = extra_float_digits
CONFIG
launch "$dir" "pgbouncer-$mode" INT $(as_user_words postgres) "$(pgbouncer_program)" "$data/pgbouncer.ini"
answers() {
    PGCONNECT_TIMEOUT=5 psql --no-psqlrc --host=127.0.0.1 --port="$port" --username="$TEST_USER" --dbname=postgres \
        --command='SELECT 1'
}
await "$dir" "pgbouncer-$mode" 60 answers
echo "postgres://$TEST_USER@127.0.0.1:$port/postgres" >"$dir/pgbouncer-$mode.url"
