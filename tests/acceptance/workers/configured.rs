//! The configuration of workers: environment over file over code, and what is refused.

use std::{num::NonZeroU32, time::Duration};

use barid::{Backoff, Bus, BusBuilder, CircuitBreaker, Config, Memory, RateLimit, Result};

use super::stage::Work;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn configured(builder: BusBuilder, file: &str, variables: &[(&str, &str)]) -> Result<Bus, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = Config::parse(&format!("[bus.orders]\n{file}"), "barid.toml", variables);
    let config = config.map_err(|error| error.to_string())?;
    let builder = builder.transport(Memory::new()).handler(async |_: Work| Ok(()));
    builder.config(config.bus("orders")).build().map_err(|error| error.to_string())
}

fn orders() -> BusBuilder {
    Bus::builder("orders")
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_code() {
    let millis = |steps: &[u64]| Backoff::new(steps.iter().copied().map(Duration::from_millis)).unwrap();
    let code = orders()
        .receive_backoff([Duration::from_millis(7)])
        .error_backoff([Duration::from_millis(8)])
        .rate_limit(RateLimit::per_second(number(9)).burst(number(2)))
        .circuit_breaker(CircuitBreaker { failures_percent: 20, ..CircuitBreaker::default() });
    let file = "receive_backoff_ms = [1, 2]\nrate_limit_per_second = 30\nrate_limit_burst = 3\n\
                circuit_breaker_pause_ms = 500\ncircuit_breaker_messages_min = 3\n";
    let variables = [
        ("BARID_BUS__ORDERS__RECEIVE_BACKOFF_MS", "[3, 4, 5]"),
        ("BARID_BUS__ORDERS__CIRCUIT_BREAKER_PERCENT", "75"),
    ];
    let bus = configured(code, file, &variables).unwrap();
    let worker = &bus.settings().worker;
    assert_eq!(worker.receive_backoff, millis(&[3, 4, 5]));
    assert_eq!(worker.error_backoff, millis(&[8]));
    assert_eq!(worker.rate_limit, Some(RateLimit::per_second(number(30)).burst(number(3))));
    let expected = CircuitBreaker {
        failures_percent: 75,
        messages_min: number(3),
        window: Duration::from_secs(60),
        pause: Duration::from_millis(500),
    };
    assert_eq!(worker.circuit_breaker, Some(expected));
    let origins = &bus.settings().origins;
    assert_eq!(origins["receive_backoff_ms"], "variable BARID_BUS__ORDERS__RECEIVE_BACKOFF_MS");
    assert_eq!(origins["rate_limit_burst"], "barid.toml:4");
    assert!(!origins.contains_key("error_backoff_ms"), "the code said it");
}

#[test]
fn zero_turns_off_what_the_code_turned_on() {
    let code =
        orders().rate_limit(RateLimit::per_second(number(9))).circuit_breaker(CircuitBreaker::default());
    let bus = configured(code, "rate_limit_per_second = 0\ncircuit_breaker_percent = 0\n", &[]).unwrap();
    assert_eq!(bus.settings().worker.rate_limit, None);
    assert_eq!(bus.settings().worker.circuit_breaker, None);
}

#[test]
fn what_cannot_work_is_refused() {
    let check = |builder: BusBuilder, file: &str, parts: &[&str]| {
        let said = configured(builder, file, &[]).unwrap_err();
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} are not all in {said}");
    };
    check(
        orders(),
        "receive_backoff_ms = []\nerror_backoff_ms = [5, 0]\n",
        &["BRD019", "receive_backoff: a backoff needs at least one step", "error_backoff: a step"],
    );
    check(orders().error_backoff([]), "", &["BRD019", "error_backoff"]);
    check(orders(), "rate_limit_per_second = 5\nrate_limit_burst = 0\n", &["BRD019", "rate_limit_burst"]);
    check(orders(), "rate_limit_burst = 5\n", &["BRD083", "rate_limit_per_second"]);
    check(orders(), "circuit_breaker_pause_ms = 5\n", &["BRD083", "circuit_breaker_percent"]);
    check(orders(), "circuit_breaker_percent = 101\n", &["BRD082", "101 %"]);
    check(orders(), "circuit_breaker_percent = 50\ncircuit_breaker_pause_ms = 600001\n", &["BRD082", "600"]);
    check(orders(), "circuit_breaker_percent = 50\ncircuit_breaker_window_ms = 9\n", &["BRD082", "10 ms"]);
    check(orders(), "circuit_breaker_pause_ms = 0\n", &["BRD018", "barid.toml:2"]);
    check(orders(), "rate_limit = 5\n", &["BRD018", "unknown key", "barid.toml:2"]);
    let longest = CircuitBreaker { pause: Duration::from_secs(601), ..CircuitBreaker::default() };
    check(orders().circuit_breaker(longest), "", &["BRD082"]);
}
