//! One saga of `barid_tests::steps`, or what another process has left of it, in a process that can be killed.
//!
//! `saga-steps run SAGA ACCOUNT FAILS URL URL` starts a saga and carries it out, `saga-steps resume ACCOUNT URL URL` goes on with it,
//! and `saga-steps serve URL URL` carries out whatever is due until it is killed. Dies at the point that `BARID_CRASH_AT` names.

use anyhow::{Result, bail};
use barid_tests::steps::{Tills, Transfer, patient};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", saga, account, fails, a, b] => {
            let tills = Tills::open([a, b]).await.map_err(anyhow::Error::msg)?;
            let orchestrator = tills.orchestrator(patient()).map_err(anyhow::Error::msg)?;
            let fails = (*fails != "-").then(|| (*fails).to_owned());
            let transfer = Transfer { account: account.parse()?, fails };
            let saga = tills.saga(saga, &transfer).map_err(anyhow::Error::msg)?;
            println!("{:?}", orchestrator.execute(&saga).await?);
        }
        ["resume", account, a, b] => {
            let tills = Tills::open([a, b]).await.map_err(anyhow::Error::msg)?;
            let orchestrator = tills.orchestrator(patient()).map_err(anyhow::Error::msg)?;
            println!("{:?}", orchestrator.finish(Tills::id(account.parse()?)).await?);
        }
        ["serve", a, b] => {
            let tills = Tills::open([a, b]).await.map_err(anyhow::Error::msg)?;
            let orchestrator = tills.orchestrator(patient()).map_err(anyhow::Error::msg)?;
            println!("serving");
            orchestrator.run_until(CancellationToken::new()).await;
        }
        _ => {
            bail!("usage: saga-steps run SAGA ACCOUNT FAILS URL URL | resume ACCOUNT URL URL | serve URL URL")
        }
    }
    Ok(())
}
