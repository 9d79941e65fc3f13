#!/usr/bin/env bash
# standby.sh DIR: a streaming replica of the PostgreSQL that runs in DIR, in DIR/standby. Stopped with it by `down DIR`.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/lib.sh"
. "$here/packages.sh"
dir=$1 data=$1/standby
bin=$(dirname "$(postgres_program initdb)")
port=$(free_port)

own_folder "$data" postgres
chmod 700 "$data"
as_user postgres "$bin/pg_basebackup" --dbname="$(cat "$dir/postgres.url")" --pgdata="$data" --write-recovery-conf \
    --checkpoint=fast --wal-method=stream --no-sync >"$dir/standby.out" 2>&1 ||
    { cat "$dir/standby.out" >&2; die "pg_basebackup failed"; }
cd "$data"
launch "$dir" standby INT $(as_user_words postgres) "$bin/postgres" -D "$data" -c port="$port"
answers() {
    PGPASSWORD=$TEST_PASSWORD PGCONNECT_TIMEOUT=5 psql --no-psqlrc --host=127.0.0.1 --port="$port" \
        --username="$TEST_USER" --dbname=postgres --command='SELECT 1'
}
await "$dir" standby 60 answers
echo "postgres://$TEST_USER:$TEST_PASSWORD@127.0.0.1:$port/postgres" >"$dir/standby.url"
