//! What goes wrong on purpose, and for which commands. Always the same ones, so that a run can be repeated.

/// Every tenth command: its first attempt fails after it has written the order.
#[must_use]
pub fn first_attempt_fails(command: u64) -> bool {
    command.is_multiple_of(10)
}

/// Every fifteenth command: the customer sends it twice, with the same message id.
#[must_use]
pub fn sent_twice(command: u64) -> bool {
    command.is_multiple_of(15)
}

/// Every twentieth command: its event is written to the outbox twice, with the same message id.
#[must_use]
pub fn announced_twice(command: u64) -> bool {
    command.is_multiple_of(20)
}

/// How many customers there are. Each is a key: their orders are shipped in order.
pub const CUSTOMERS: u64 = 50;

/// Who sends a command.
#[must_use]
pub fn customer(command: u64) -> String {
    // The second part moves on with every round, so that the faults, which come in tens, meet all customers.
    format!("customer-{:02}", (command * 7 + command / CUSTOMERS) % CUSTOMERS)
}
