//! What handlers of such a bus can ask for, what they are told when they cannot, and what a failing one leaves: nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use barid::{
    Bus, Context, Error, Message, Result, RetryPolicy, SqlIdempotency, SqlOutbox, SqlUnitOfWork,
    distributed::{
        Ack, Branch, Coordinator, DistributedUnits, FnParticipant, Resource, ResourceId, SqlDecisionLog,
        SqlResource, Vote,
    },
};
use barid_tests::transfer::impatient;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, PgPool, Postgres};

use super::*;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "bus.act")]
struct Act {
    what: String,
}

/// How often the participant that a handler enlisted was prepared, and told to commit or to roll back.
#[derive(Default)]
struct Calls([AtomicU32; 3]);

async fn insert(cx: &Context, home: bool, branch: bool) -> Result<()> {
    if home {
        let mut db = cx.unit_of_work::<Postgres>().await?;
        sqlx::query("INSERT INTO effect (n) VALUES (1)").execute(&mut *db).await?;
    }
    if branch {
        let mut db = cx.branch::<Postgres>("billing").await?;
        sqlx::query("INSERT INTO effect (n) VALUES (1)").execute(&mut *db).await?;
    }
    Ok(())
}

async fn act(cmd: Act, cx: Context) -> Result<()> {
    match cmd.what.as_str() {
        "home" => insert(&cx, true, false).await,
        "both" => insert(&cx, true, true).await,
        "twice one after the other" => {
            insert(&cx, true, true).await?;
            insert(&cx, false, true).await
        }
        "reads" => {
            insert(&cx, true, false).await?;
            let mut db = cx.branch::<Postgres>("billing").await?;
            sqlx::query("SELECT n FROM effect").fetch_all(&mut *db).await?;
            Ok(())
        }
        "fails" => {
            insert(&cx, true, true).await?;
            Err(Error::new("asked to fail"))
        }
        "panics" => {
            insert(&cx, true, true).await?;
            panic!("asked to panic")
        }
        "ignores an error" => {
            insert(&cx, true, true).await?;
            let mut db = cx.branch::<Postgres>("billing").await?;
            assert!(sqlx::query("SELECT nothing").execute(&mut *db).await.is_err());
            Ok(())
        }
        "holds two guards" => {
            let _first = cx.branch::<Postgres>("billing").await?;
            cx.branch::<Postgres>("billing").await.map(drop)
        }
        "a branch that is not there" => cx.branch::<Postgres>("shipping").await.map(drop),
        "another database" => cx.branch::<MySql>("billing").await.map(drop),
        "enlists" => {
            insert(&cx, true, false).await?;
            enlist(&cx).await
        }
        "enlists and fails" => {
            insert(&cx, true, true).await?;
            enlist(&cx).await?;
            Err(Error::new("asked to fail"))
        }
        "enlists a stranger" => {
            let id = ResourceId::new("stranger")?;
            cx.enlist("stranger", FnParticipant::new(id, prepared, done, done)).await
        }
        what => Err(Error::permanent(format!("nobody knows how to act {what:?}"))),
    }
}

async fn prepared(_: barid::distributed::BranchId) -> Result<Vote, barid::distributed::RmError> {
    Ok(Vote::Prepared)
}

async fn done(_: barid::distributed::BranchId) -> Result<Ack, barid::distributed::RmError> {
    Ok(Ack::Done)
}

async fn enlist(cx: &Context) -> Result<()> {
    let calls = cx.state::<Arc<Calls>>().ok_or_else(|| Error::new("no state"))?;
    let counted = |at: usize| {
        let calls = Arc::clone(&*calls);
        move || calls.0[at].fetch_add(1, Ordering::SeqCst)
    };
    let (prepare, commit, rollback) = (counted(0), counted(1), counted(2));
    let participant = FnParticipant::new(
        ResourceId::new("billing")?,
        move |branch| {
            prepare();
            prepared(branch)
        },
        move |branch| {
            commit();
            done(branch)
        },
        move |branch| {
            rollback();
            done(branch)
        },
    );
    cx.enlist("files", participant).await
}

/// A coordinator that knows the branch, in this process.
async fn coordinator(world: &World) -> (PgPool, Arc<SqlResource<Postgres>>, Coordinator) {
    let (AnyPool::Postgres(home), AnyPool::Postgres(branch)) = (&world.pools[0], &world.pools[1]) else {
        panic!("two PostgreSQL")
    };
    let log = Arc::new(SqlDecisionLog::new(home.clone()));
    let branch = SqlResource::new(ResourceId::new("billing").unwrap(), branch.clone());
    let resources = [Arc::clone(&branch) as Arc<dyn Resource>];
    let coordinator = Coordinator::connect(log, resources, impatient()).await.unwrap();
    (home.clone(), branch, coordinator)
}

struct Acting {
    world: World,
    bus: Bus,
    sender: Sender,
    calls: Arc<Calls>,
}

impl Acting {
    async fn new() -> Self {
        let world = World::new(postgres().await, postgres().await).await;
        let (home, branch, coordinator) = coordinator(&world).await;
        let (queue, calls) = (SqlQueue::new(home.clone()), Arc::new(Calls::default()));
        let bus = Bus::builder("acts")
            .transport(queue.clone())
            .unit_of_work(DistributedUnits::new(&coordinator, home).branch(&branch))
            .outbox(SqlOutbox::new())
            .idempotency(SqlIdempotency::new())
            .retry(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() })
            .parallelism(1)
            .state(Arc::clone(&calls))
            .handler(act)
            .build()
            .unwrap();
        bus.declare().await.unwrap();
        let sender = Sender::connect(&queue, "test").await.unwrap();
        Self { world, bus, sender, calls }
    }

    /// Lets the bus act once. Returns how many effects there are in home and in the branch, and what a dead letter says.
    async fn acts(&self, what: &str) -> ([i64; 2], Option<String>) {
        for pool in &self.world.pools {
            run(pool, "DELETE FROM effect").await.unwrap();
        }
        let home = &self.world.pools[0];
        run(home, "DELETE FROM queue_message;DELETE FROM dtx_transaction").await.unwrap();
        let act = Outgoing::new(Act { what: what.to_owned() }).to(Destination::queue("acts").unwrap());
        self.sender.send(act).await.unwrap();
        let over = eventually(LONG, what, || async {
            number(home, "SELECT count(*) FROM queue_message WHERE queue='acts'").await == 0
                && self.world.open().await == 0
        });
        self.bus.run_until(over).await.unwrap();
        assert_eq!(self.world.prepared().await, 0, "{what}");
        let AnyPool::Postgres(pool) = home else { panic!("a PostgreSQL") };
        let letter = sqlx::query_scalar("SELECT headers::text FROM queue_message WHERE queue='dead-letters'");
        let letter: Option<String> = letter.fetch_optional(pool).await.unwrap();
        let effects =
            [self.world.effects().await, number(&self.world.pools[1], "SELECT count(*) FROM effect").await];
        (effects, letter.map(|letter| letter.replace("\\\"", "\"")))
    }

    async fn transactions(&self) -> i64 {
        number(&self.world.pools[0], "SELECT count(*) FROM dtx_transaction").await
    }

    fn called(&self) -> [u32; 3] {
        [0, 1, 2].map(|at: usize| self.calls.0[at].swap(0, Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_reaches_every_database_and_all_of_them_agree() {
    let acting = Acting::new().await;
    for (what, effects, logged) in [
        ("home", [1, 0], 0),
        ("both", [1, 1], 1),
        ("twice one after the other", [1, 2], 1),
        ("reads", [1, 0], 1),
    ] {
        assert_eq!(acting.acts(what).await, (effects, None), "{what}");
        assert_eq!(acting.transactions().await, logged, "{what}: what only needs home costs the log nothing");
    }
    for (what, logged, said) in [
        ("fails", 0, "asked to fail"),
        ("panics", 0, "asked to panic"),
        ("ignores an error", 1, "branch \"billing\" on billing: a statement in the unit of work failed"),
        ("holds two guards", 0, "a guard of branch billing is alive already: drop it before taking another"),
        (
            "a branch that is not there",
            0,
            "no branch of the unit of work is called \"shipping\": there is billing",
        ),
        ("another database", 0, "branch \"billing\" is on PostgreSQL, not on MariaDB/MySQL"),
        ("enlists a stranger", 0, "which the coordinator does not know: give it to Coordinator::connect"),
    ] {
        let (effects, letter) = acting.acts(what).await;
        let letter = letter.unwrap_or_else(|| panic!("{what} became no dead letter"));
        assert!(effects == [0, 0] && letter.contains(said), "{what}: {effects:?}, {letter}");
        assert_eq!(acting.transactions().await, logged, "{what}: nobody was asked to prepare");
    }
    let outbox = number(&acting.world.pools[0], "SELECT count(*) FROM outbox").await;
    assert_eq!(outbox, 0, "nothing was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_else_can_take_part() {
    let acting = Acting::new().await;
    assert_eq!(acting.acts("enlists").await, ([1, 0], None));
    assert_eq!(acting.called(), [1, 1, 0], "prepared and committed");
    assert_eq!(acting.acts("enlists and fails").await.0, [0, 0]);
    assert_eq!(acting.called(), [0, 0, 1], "rolled back, and never prepared");
}

async fn asks_for_postgres(_: Act, _: Branch<Postgres>) -> Result<()> {
    Ok(())
}

async fn asks_for_mariadb(_: Act, _: Branch<MySql>) -> Result<()> {
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_branch_is_found_when_the_bus_is_built() {
    let world = World::new(postgres().await, postgres().await).await;
    let (home, branch, coordinator) = coordinator(&world).await;
    let units = || DistributedUnits::new(&coordinator, home.clone());
    let second = SqlResource::new(ResourceId::new("shipping").unwrap(), home.clone());
    let bus = |unit: DistributedUnits<Postgres>| {
        Bus::builder("built").transport(barid::Memory::new()).outbox(SqlOutbox::new()).unit_of_work(unit)
    };
    assert!(bus(units().branch(&branch)).handler(asks_for_postgres).build().is_ok());
    let refused = |built: std::result::Result<Bus, barid::BuildError>| built.err().unwrap().to_string();
    for (said, wanted) in [
        (
            refused(bus(units()).handler(asks_for_postgres).build()),
            "the bus has none: give it to DistributedUnits::branch",
        ),
        (
            refused(bus(units().branch(&branch)).handler(asks_for_mariadb).build()),
            "a branch on MariaDB/MySQL",
        ),
        (
            refused(bus(units().branch(&branch).branch(&second)).handler(asks_for_postgres).build()),
            "the bus has \"billing\" and \"shipping\": ask for one by its name",
        ),
        (
            refused(
                Bus::builder("plain")
                    .transport(barid::Memory::new())
                    .unit_of_work(SqlUnitOfWork::new(home.clone()))
                    .handler(asks_for_postgres)
                    .build(),
            ),
            "the bus has none",
        ),
    ] {
        assert!(said.contains("BRD014") && said.contains(wanted), "{said}");
    }
}
