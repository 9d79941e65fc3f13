//! What differs between the databases: how the rows are written, and how they are counted.

use barid::{
    Headers, Message, UnitConnection,
    batch::Received,
    headers,
    store::{AnyPool, Backend},
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_tests::TestDatabase;
use bytes::Bytes;
use sqlx::{MySql, Pool, Postgres, QueryBuilder, Sqlite};
use uuid::Uuid;

use super::PlaceOrder;

/// A database that can be measured.
pub(crate) trait Subject: Backend {
    async fn database() -> TestDatabase<Self>;
    fn any(pool: &Pool<Self>) -> AnyPool;
    async fn create_business_table(pool: &Pool<Self>) -> Result<(), sqlx::Error>;
    /// Empties the three tables.
    async fn empty(pool: &Pool<Self>) -> Result<(), sqlx::Error>;
    /// Rows of the three tables.
    async fn counts(pool: &Pool<Self>) -> Result<[i64; 3], sqlx::Error>;
    async fn version(pool: &Pool<Self>) -> Result<String, sqlx::Error>;
    /// The handler's own statement.
    fn business(
        db: &mut UnitConnection<Self>,
        command: &PlaceOrder,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// The statement of a handler that takes many.
    fn business_of_all(
        db: &mut UnitConnection<Self>,
        commands: &[Received<PlaceOrder>],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// A database on which the same is done by hand.
pub(crate) trait ByHand: Subject {
    /// One message by hand, in five statements.
    fn by_hand(
        connection: &mut Self::Connection,
        id: Uuid,
        body: &[u8],
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

pub(crate) const CREATE: &str =
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer BIGINT NOT NULL, note VARCHAR(1000) NOT NULL)";
const COUNTS: &str =
    "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM idempotency), (SELECT count(*) FROM outbox)";

impl Subject for Postgres {
    async fn database() -> TestDatabase<Self> {
        TestDatabase::postgres().await
    }

    fn any(pool: &Pool<Self>) -> AnyPool {
        pool.clone().into()
    }

    async fn create_business_table(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        sqlx::query(CREATE).execute(pool).await.map(drop)
    }

    async fn empty(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        sqlx::query("TRUNCATE orders, idempotency, outbox").execute(pool).await.map(drop)
    }

    async fn counts(pool: &Pool<Self>) -> Result<[i64; 3], sqlx::Error> {
        let (orders, records, rows) = sqlx::query_as(COUNTS).fetch_one(pool).await?;
        Ok([orders, records, rows])
    }

    async fn version(pool: &Pool<Self>) -> Result<String, sqlx::Error> {
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(pool).await?;
        Ok(format!("PostgreSQL {version}"))
    }

    async fn business(db: &mut UnitConnection<Self>, command: &PlaceOrder) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO orders (id, customer, note) VALUES ($1, $2, $3)")
            .bind(command.order)
            .bind(command.customer)
            .bind(&command.note)
            .execute(db)
            .await
            .map(drop)
    }

    async fn business_of_all(
        db: &mut UnitConnection<Self>,
        commands: &[Received<PlaceOrder>],
    ) -> Result<(), sqlx::Error> {
        let (mut ids, mut customers, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        for command in commands {
            ids.push(command.order);
            customers.push(command.customer);
            notes.push(command.note.as_str());
        }
        sqlx::query(
            "INSERT INTO orders (id, customer, note) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])",
        )
        .bind(ids)
        .bind(customers)
        .bind(notes)
        .execute(db)
        .await
        .map(drop)
    }
}

impl ByHand for Postgres {
    async fn by_hand(connection: &mut Self::Connection, id: Uuid, body: &[u8]) -> anyhow::Result<()> {
        super::by_hand::postgres(connection, id, body).await
    }
}

impl Subject for MySql {
    async fn database() -> TestDatabase<Self> {
        TestDatabase::mariadb().await
    }

    fn any(pool: &Pool<Self>) -> AnyPool {
        pool.clone().into()
    }

    async fn create_business_table(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        sqlx::query(CREATE).execute(pool).await.map(drop)
    }

    async fn empty(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        for truncate in ["TRUNCATE orders", "TRUNCATE idempotency", "TRUNCATE outbox"] {
            sqlx::query(truncate).execute(pool).await?;
        }
        Ok(())
    }

    async fn counts(pool: &Pool<Self>) -> Result<[i64; 3], sqlx::Error> {
        let (orders, records, rows) = sqlx::query_as(COUNTS).fetch_one(pool).await?;
        Ok([orders, records, rows])
    }

    async fn version(pool: &Pool<Self>) -> Result<String, sqlx::Error> {
        sqlx::query_scalar("SELECT version()").fetch_one(pool).await
    }

    async fn business(db: &mut UnitConnection<Self>, command: &PlaceOrder) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO orders (id, customer, note) VALUES (?, ?, ?)")
            .bind(command.order)
            .bind(command.customer)
            .bind(&command.note)
            .execute(db)
            .await
            .map(drop)
    }

    async fn business_of_all(
        db: &mut UnitConnection<Self>,
        commands: &[Received<PlaceOrder>],
    ) -> Result<(), sqlx::Error> {
        let mut insert = QueryBuilder::<Self>::new("INSERT INTO orders (id, customer, note) ");
        insert.push_values(commands, |mut row, command| {
            row.push_bind(command.order).push_bind(command.customer).push_bind(command.note.clone());
        });
        insert.build().execute(db).await.map(drop)
    }
}

impl ByHand for MySql {
    async fn by_hand(connection: &mut Self::Connection, id: Uuid, body: &[u8]) -> anyhow::Result<()> {
        super::by_hand::mariadb(connection, id, body).await
    }
}

impl Subject for Sqlite {
    async fn database() -> TestDatabase<Self> {
        TestDatabase::sqlite().await
    }

    fn any(pool: &Pool<Self>) -> AnyPool {
        pool.clone().into()
    }

    async fn create_business_table(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        sqlx::query(CREATE).execute(pool).await.map(drop)
    }

    async fn empty(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        for delete in ["DELETE FROM orders", "DELETE FROM idempotency", "DELETE FROM outbox"] {
            sqlx::query(delete).execute(pool).await?;
        }
        Ok(())
    }

    async fn counts(pool: &Pool<Self>) -> Result<[i64; 3], sqlx::Error> {
        let (orders, records, rows) = sqlx::query_as(COUNTS).fetch_one(pool).await?;
        Ok([orders, records, rows])
    }

    async fn version(pool: &Pool<Self>) -> Result<String, sqlx::Error> {
        let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await?;
        Ok(format!("SQLite {version}"))
    }

    async fn business(db: &mut UnitConnection<Self>, command: &PlaceOrder) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO orders (id, customer, note) VALUES ($1, $2, $3)")
            .bind(command.order)
            .bind(command.customer)
            .bind(&command.note)
            .execute(db)
            .await
            .map(drop)
    }

    async fn business_of_all(
        db: &mut UnitConnection<Self>,
        commands: &[Received<PlaceOrder>],
    ) -> Result<(), sqlx::Error> {
        let mut insert = QueryBuilder::<Self>::new("INSERT INTO orders (id, customer, note) ");
        insert.push_values(commands, |mut row, command| {
            row.push_bind(command.order).push_bind(command.customer).push_bind(command.note.clone());
        });
        insert.build().execute(db).await.map(drop)
    }
}

/// One message, as a transport would hand it over.
pub(crate) struct Work {
    pub(crate) id: Uuid,
    pub(crate) delivery: Delivery,
}

impl Work {
    /// The message with this number; its event has 512 bytes or so.
    pub(crate) fn new(number: usize) -> Self {
        let order = i64::try_from(number).expect("far fewer messages than that");
        let command = PlaceOrder { order, customer: order % 200, note: "n".repeat(460) };
        let id = Uuid::now_v7();
        let body = Bytes::from(serde_json::to_vec(&command).expect("a struct of numbers and text is JSON"));
        let headers = Headers::from_iter([
            (headers::ID, id.to_string()),
            (headers::TYPE, PlaceOrder::NAME.to_owned()),
            (headers::CORRELATION_ID, id.to_string()),
        ]);
        let settlement = Box::new(Settled);
        Self {
            id,
            delivery: Delivery {
                headers,
                body,
                source: "orders".to_owned(),
                repeat: Repeat::First,
                settlement,
            },
        }
    }
}

/// A broker that costs nothing.
struct Settled;

#[async_trait::async_trait]
impl Settlement for Settled {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: std::time::Duration) -> Result<(), TransportError> {
        Ok(())
    }
}
