# What tests/run and .ci/run agree on; sourced, never run.

# Build products stay out of the checkout, and survive for the next run.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/barid-target}

# Everything that can be compiled, without `kafka-ssl`, which needs OpenSSL's headers. The databases and brokers of the
# framework and of the relay are asked for by barid-tests; only the examples have features that nobody else turns on.
everything=(--workspace
    --features barid-examples/postgres,barid-examples/mysql,barid-examples/rabbitmq,barid-examples/kafka)

# What a newcomer compiles: SQLite and the SQL queue, no broker client.
newcomer=(--package barid --package barid-macros --package barid-examples)

# phase NAME COMMAND...: runs it and says how long it took.
phase() {
    local name=$1 began=$SECONDS status=0
    shift
    "$@" || status=$?
    printf 'phase %s: %d s%s\n' "$name" "$((SECONDS - began))" "$([ "$status" = 0 ] || echo ", FAILED")"
    return "$status"
}
