//! The program; everything is in the library.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    Box::pin(barid_relay::cli::main(std::env::args_os())).await
}
