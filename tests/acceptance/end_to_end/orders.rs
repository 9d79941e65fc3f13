//! The producing side: a bus on PostgreSQL that places orders.

use barid::{
    Bus, BusError, Context, Destination, Error, Memory, Message, Outgoing, Result, Sender, SqlIdempotency,
    SqlOutbox, SqlUnitOfWork, Transport,
    store::{AnyPool, schema},
    transport::Inbox,
};
use barid_tests::TestDatabase;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, Row, postgres::PgPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Keys: an order belongs to a shop, and the orders of a shop are numbered.
pub(crate) const SHOPS: i64 = 200;
const PARALLELISM: usize = 16;
const DEAD_LETTERS: &str = "dead-letters";

/// `orders.id` comes from a sequence, which no rollback turns back: its gaps are the attempts that rolled back.
///
/// A DELETE takes its time here, as in a busy database, so that a killed relay leaves rows that were confirmed and not deleted.
const TABLES: &str = "
    CREATE TABLE shops (shop bigint PRIMARY KEY, orders bigint NOT NULL DEFAULT 0);
    CREATE TABLE orders (id bigserial PRIMARY KEY, number bigint NOT NULL, shop bigint NOT NULL, n bigint NOT NULL,
                         attempt uuid NOT NULL);
    CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
    CREATE TRIGGER take_time BEFORE DELETE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION take_time()";

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct PlaceOrder {
    number: i64,
    shop: i64,
}

/// `n` is the order's place among those of its shop; `attempt` is another one for each run of the handler, so that what a
/// rolled back run said can be told from what a committed run said.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub(crate) struct OrderPlaced {
    pub(crate) number: i64,
    pub(crate) shop: i64,
    pub(crate) n: i64,
    pub(crate) attempt: Uuid,
}

/// The row of the shop is locked until COMMIT, so orders of a shop commit one after the other.
async fn place_order(command: PlaceOrder, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<Postgres>().await?;
    let numbered = "UPDATE shops SET orders = orders + 1 WHERE shop = $1 RETURNING orders";
    let n: i64 = sqlx::query_scalar(numbered).bind(command.shop).fetch_one(&mut *db).await?;
    let attempt = Uuid::now_v7();
    sqlx::query("INSERT INTO orders (number, shop, n, attempt) VALUES ($1, $2, $3, $4)")
        .bind(command.number)
        .bind(command.shop)
        .bind(n)
        .bind(attempt)
        .execute(&mut *db)
        .await?;
    let placed = OrderPlaced { number: command.number, shop: command.shop, n, attempt };
    cx.publish(Outgoing::new(placed).key(command.shop))?;
    if command.number % 10 == 7 && cx.attempt() == 1 {
        return Err(Error::new("one order in ten fails at first"));
    }
    Ok(())
}

pub(crate) struct Orders {
    pub(crate) count: usize,
    database: TestDatabase<Postgres>,
    pool: PgPool,
}

impl Orders {
    pub(crate) async fn open(count: usize) -> Self {
        let database = TestDatabase::postgres().await;
        let connections = u32::try_from(PARALLELISM).unwrap() + 4;
        let pool = PgPoolOptions::new().max_connections(connections).connect(&database.url).await.unwrap();
        schema::apply(&AnyPool::Postgres(pool.clone())).await.unwrap();
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        let shops = "INSERT INTO shops (shop) SELECT generate_series(0, $1 - 1)";
        sqlx::query(shops).bind(SHOPS).execute(&pool).await.unwrap();
        Self { count, database, pool }
    }

    pub(crate) fn url(&self) -> &str {
        &self.database.url
    }

    /// Starts the bus and feeds it every command, some of them twice. What is returned beside its task says how many
    /// commands it gave up.
    pub(crate) async fn start(
        &self,
        topic: &str,
        stop: CancellationToken,
    ) -> (JoinHandle<Result<(), BusError>>, impl Fn() -> usize + use<>) {
        let memory = Memory::new();
        let bus = Bus::builder("orders")
            .transport(memory.clone())
            .unit_of_work(SqlUnitOfWork::new(self.pool.clone()).commit_with_transaction(true))
            .outbox(SqlOutbox::new())
            .idempotency(SqlIdempotency::new())
            .route::<OrderPlaced>(Destination::topic(topic).unwrap())
            .parallelism(PARALLELISM)
            .dead_letters(DEAD_LETTERS)
            .handler(place_order)
            .build()
            .unwrap();
        let queue = Destination::queue("orders").unwrap();
        memory.declare(&Inbox::new("orders")).await.unwrap();
        let sender = Sender::connect(&memory, "customers").await.unwrap();
        for number in 0..i64::try_from(self.count).unwrap() {
            let id = Uuid::now_v7();
            for _ in 0..if number % 50 == 3 { 2 } else { 1 } {
                let command = PlaceOrder { number, shop: number % SHOPS };
                sender.send(Outgoing::new(command).id(id).to(queue.clone())).await.unwrap();
            }
        }
        let task = tokio::spawn(async move { bus.run_until(stop.cancelled_owned()).await });
        (task, move || memory.len(DEAD_LETTERS))
    }

    pub(crate) async fn committed(&self) -> usize {
        self.number("SELECT count(*) FROM orders").await
    }

    /// How often the handler inserted an order, committed or not.
    pub(crate) async fn tried(&self) -> usize {
        self.number("SELECT last_value FROM orders_id_seq").await
    }

    pub(crate) async fn parked(&self) -> usize {
        self.number("SELECT count(*) FROM relay_parked").await
    }

    /// Connections of a relay, also of one that was killed and whose end the server has not noticed.
    pub(crate) async fn relays_connected(&self) -> usize {
        let connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'barid-relay'";
        self.number(connected).await
    }

    /// Rows of the outbox up to this one.
    pub(crate) async fn outbox_up_to(&self, seq: i64) -> usize {
        let counted = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE seq <= $1").bind(seq);
        let counted: i64 = counted.fetch_one(&self.pool).await.unwrap();
        usize::try_from(counted).unwrap()
    }

    /// What is in the outbox, in its order.
    pub(crate) async fn outbox(&self) -> Vec<(i64, Uuid)> {
        sqlx::query_as("SELECT seq, id FROM outbox ORDER BY seq").fetch_all(&self.pool).await.unwrap()
    }

    /// What was committed.
    pub(crate) async fn rows(&self) -> Vec<OrderPlaced> {
        let rows = sqlx::query("SELECT number, shop, n, attempt FROM orders").fetch_all(&self.pool);
        let order = |row: sqlx::postgres::PgRow| OrderPlaced {
            number: row.get(0),
            shop: row.get(1),
            n: row.get(2),
            attempt: row.get(3),
        };
        rows.await.unwrap().into_iter().map(order).collect()
    }

    pub(crate) async fn drop_now(self) {
        self.pool.close().await;
        self.database.drop_now().await;
    }

    async fn number(&self, query: &'static str) -> usize {
        let number: i64 = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap();
        usize::try_from(number).unwrap()
    }
}
