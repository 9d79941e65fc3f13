//! `barid-relay parked`: messages that cannot be delivered, and what to do about them.

use std::io::{IsTerminal, Write as _};

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{
    Failure,
    on::{Because, On},
};
use crate::{
    lane::RowId,
    parked::{Action, Change, Changed, Filter, Page, ParkedStore, Unmeant, words},
    setup,
    source::open,
};

mod output;
mod select;

use self::select::Selection;

/// What one command changes or shows at most where nothing else is said.
const LIMIT: u32 = 50;

/// Shown below `barid-relay parked --help`.
pub(super) const HELP: &str = "A message that can never be delivered (its destination has no route, the broker refuses it) is \
taken out of the outbox and parked, so that it holds up nobody but its own key. Its state says what that means:
  poison   it cannot be delivered; later messages of its key wait until you decide
  behind   nothing is wrong with it; it waits behind a poison message of its key
  skipped  it cannot be delivered, and nobody waits for it

A working day with parked messages:
  barid-relay parked groups                                   what went wrong, and how often
  barid-relay parked list --fingerprint 3f0c11d2a9b47e65      which messages that concerns
  barid-relay parked show 018f2c5e-7b1a-7c3d-9e4f-0123456789ab
  (repair the cause: declare the queue, add the route, grant the permission)
  barid-relay parked retry --fingerprint 3f0c11d2a9b47e65 --dry-run --reason 'queue declared'
  barid-relay parked retry --fingerprint 3f0c11d2a9b47e65 --reason 'queue declared'";

#[derive(Debug, Args)]
pub(super) struct Parked {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists parked messages, the oldest first, page by page.
    List {
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        selection: Selection,
        /// At most so many.
        #[arg(long, default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Goes on after this message; the end of a page says it, as SEQ:ID.
        #[arg(long, value_name = "SEQ:ID", value_parser = words::after)]
        after: Option<RowId>,
    },
    /// Groups parked messages by what went wrong.
    ///
    /// Errors that differ only in numbers, ids and addresses are one group. Its fingerprint selects it in the other commands.
    Groups {
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        selection: Selection,
        /// At most so many, the largest first.
        #[arg(long, default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Shows everything about one message but its body.
    Show {
        #[command(flatten)]
        on: On,
        /// The message id.
        id: Uuid,
        /// Shows the body too. It may hold what is nobody's business.
        #[arg(long)]
        body: bool,
    },
    /// Sends messages again, after you have repaired the cause.
    ///
    /// A message keeps its id and its place: what waits behind it in its key follows in order. The relay does it within about
    /// a second, or when it starts. Without --state only poison messages are meant.
    Retry(Changing),
    /// Goes on without messages: what waits behind them flows.
    ///
    /// They stay parked as skipped, until somebody retries or purges them.
    Skip(Changing),
    /// Deletes parked messages for good. What waits behind them flows.
    ///
    /// Without --state poison and skipped messages are meant, not those that only wait.
    Purge {
        #[command(flatten)]
        changing: Changing,
        /// Does not ask. Needed where nobody sits at a terminal.
        #[arg(long)]
        yes: bool,
    },
}

/// A change: to which messages, and why.
#[derive(Debug, Args)]
struct Changing {
    #[command(flatten)]
    on: On,
    /// One message, by its id.
    #[arg(conflicts_with = "all")]
    id: Option<Uuid>,
    /// All parked messages of the source.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    because: Because,
}

pub(super) async fn parked(parked: Parked) -> Result<(), Failure> {
    match parked.command {
        Command::List { on, selection, limit, after } => list(&on, selection.filter(), limit, after).await,
        Command::Groups { on, selection, limit } => {
            let (store, _) = on.store().await?;
            let groups = store.groups(&selection.filter(), limit).await?;
            output::groups(&groups, on.output);
            Ok(())
        }
        Command::Show { on, id, body } => show(&on, id, body).await,
        Command::Retry(changing) => change(Action::Retry, changing, true).await,
        Command::Skip(changing) => change(Action::Skip, changing, true).await,
        Command::Purge { changing, yes } => change(Action::Purge, changing, yes).await,
    }
}

async fn list(on: &On, filter: Filter, limit: u32, after: Option<RowId>) -> Result<(), Failure> {
    let (store, _) = on.store().await?;
    // One more than is shown tells whether there are more.
    let page = Page { after, limit: limit + 1, bodies: false };
    let mut messages = store.list(&filter, &page).await?;
    let more = messages.len() > limit as usize;
    messages.truncate(limit as usize);
    output::list(&messages, more, on.output);
    Ok(())
}

async fn show(on: &On, id: Uuid, body: bool) -> Result<(), Failure> {
    let (store, source) = on.store().await?;
    // Two rows of one id are possible: ids are made by applications.
    let page = Page { after: None, limit: LIMIT, bodies: body };
    let messages = store.list(&Filter { id: Some(id), ..Filter::default() }, &page).await?;
    if messages.is_empty() {
        return Err(Failure::NothingParked { source_name: source, selection: format!("id = {id}") });
    }
    output::show(&messages, on.output);
    Ok(())
}

async fn change(action: Action, changing: Changing, sure: bool) -> Result<(), Failure> {
    let filter = changing.filter(action)?;
    let (store, source) = changing.on.store().await?;
    let count = store.count(&filter).await?;
    if count.messages == 0 {
        let hint = waits(&*store, &changing).await?;
        return Err(Failure::NothingParked { source_name: source, selection: format!("{filter}{hint}") });
    }
    let mut report = Changed { action, source, selection: filter.to_string(), count, dry_run: true };
    if changing.because.dry_run {
        output::changed(&report, changing.on.output);
        return Ok(());
    }
    if !sure && !confirmed(&report)? {
        return Err(Failure::Usage("nothing was purged".to_owned()));
    }
    let change = Change { action, filter, who: changing.because.by, reason: changing.because.reason };
    report.count.messages = store.change(&change).await?;
    report.dry_run = false;
    output::changed(&report, changing.on.output);
    Ok(())
}

/// Somebody who names a message that only waits is told so.
async fn waits(store: &dyn ParkedStore, changing: &Changing) -> Result<&'static str, Failure> {
    let Some(id) = changing.id else { return Ok("") };
    let any = store.count(&Filter { id: Some(id), ..Filter::default() }).await?;
    let waits =
        " (it waits behind a poison message of its key: retry or skip that one, and this one follows)";
    Ok(if any.messages > 0 { waits } else { "" })
}

/// Asks at the terminal; elsewhere nobody can answer.
fn confirmed(report: &Changed) -> Result<bool, Failure> {
    let what = format!("purge {} messages of source {} for good", report.count.messages, report.source);
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{what}? There is nobody to ask: add --yes")));
    }
    eprint!("{what}? Type yes: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

impl On {
    /// The parked messages that are meant, and the name of their source.
    async fn store(&self) -> Result<(Box<dyn ParkedStore>, String), Failure> {
        let config = self.config()?;
        let (name, source) = self.source(&config)?;
        let pool = setup::database(name, source).await?;
        Ok((open::parked(name, &pool), name.clone()))
    }
}

impl Changing {
    /// What is meant, in the states that the action means something to.
    fn filter(&self, action: Action) -> Result<Filter, Failure> {
        let filter = Filter { id: self.id, ..self.selection.filter() };
        filter.meant_by(action, self.all).map_err(|why| match why {
            Unmeant::Nothing => {
                let which = "which messages? Name an ID, --fingerprint, --key, --destination, --type or an age, or say --all";
                Failure::Usage(which.to_owned())
            }
            why @ Unmeant::State(..) => Failure::Usage(why.to_string()),
        })
    }
}
