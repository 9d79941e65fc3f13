//! What a bus is asked from outside a handler: a request and its answer, and what became of a message.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use uuid::Uuid;

use super::{Bus, BusCore};
use crate::{
    destination::Destination,
    error::{Error, Result},
    headers::{self, Headers},
    incoming::Incoming,
    limits,
    message::Outgoing,
    request::{Answer, Heard, MessageResult, Request, RequestError, Waiting, decode},
    store::{
        results::{ACCEPTED, ResultRow, ResultStore},
        statement::{Opening, Writes},
    },
    transport::Repeat,
    unit_of_work::Begun,
};

impl Bus {
    /// Sends a request to the queue that its route names, and waits for the answer, at most `timeout`.
    ///
    /// The request is sent at once, not with a transaction: call it outside of handlers. Cancel safe: dropping the future ends
    /// the waiting; the request may have been sent.
    ///
    /// ```no_run
    /// # use barid::{Bus, Message, request::Request};
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "prices.get")]
    /// # struct GetPrice { sku: String }
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "prices.price")]
    /// # struct Price { cents: u64 }
    /// # impl Request for GetPrice { type Reply = Price; }
    /// # async fn doc(bus: Bus) -> Result<(), barid::request::RequestError> {
    /// let price = bus.request(GetPrice { sku: "tea".to_owned() }, std::time::Duration::from_secs(5)).await?;
    /// println!("{} cents", price.cents);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`RequestError`]; at once when the bus does not run or has no `.requests()`.
    pub async fn request<R: Request>(&self, request: R, timeout: Duration) -> Result<R::Reply, RequestError> {
        self.send_request::<R>(Outgoing::new(request), timeout).await
    }

    /// The same to a destination, whatever the routes say.
    ///
    /// # Errors
    /// As [`Bus::request`].
    pub async fn request_to<R: Request>(
        &self,
        to: Destination,
        request: R,
        timeout: Duration,
    ) -> Result<R::Reply, RequestError> {
        self.send_request::<R>(Outgoing::new(request).to(to), timeout).await
    }

    async fn send_request<R: Request>(
        &self,
        mut request: Outgoing,
        timeout: Duration,
    ) -> Result<R::Reply, RequestError> {
        let core = &self.0;
        let waiting = self.waiting()?;
        if *waiting.heard().borrow() == Heard::No {
            return Err(RequestError::NotRunning { bus: core.name.clone() });
        }
        let id = request.id;
        request.headers.set(headers::REPLY_TO, format!("queue:{}", waiting.queue));
        request.headers.set(headers::REQUEST, "true");
        let request = core.addressed(request).map_err(RequestError::Undeliverable)?;
        let rows = core.rows(request, None).await.map_err(RequestError::Undeliverable)?;
        // The place is taken before the request is sent: an answer can be quicker than the confirm.
        let mut place = waiting.wait_for(id)?;
        let stopping = || RequestError::Stopping { bus: core.name.clone() };
        let answered = tokio::time::timeout(timeout, async {
            core.send_all(&rows).await.map_err(RequestError::Undeliverable)?;
            (&mut place.answer).await.map_err(|_| stopping())
        });
        let late = || RequestError::Timeout { id, name: R::NAME, after: timeout };
        match answered.await.map_err(|_| late())?? {
            Answer::Failed(problem) => Err(RequestError::Failed(problem)),
            Answer::Reply { name, body } => decode(core.codec.as_ref(), &name, &body)
                .map_err(|cause| RequestError::Undecodable { id, cause }),
        }
    }

    fn waiting(&self) -> Result<&Arc<Waiting>, RequestError> {
        self.0.waiting.as_ref().ok_or_else(|| RequestError::NotEnabled { bus: self.0.name.clone() })
    }

    /// Waits until answers to requests can be received: the bus runs and its reply queue exists. Cancel safe.
    ///
    /// # Errors
    /// [`RequestError::NotEnabled`].
    pub async fn requests_ready(&self) -> Result<(), RequestError> {
        let mut heard = self.waiting()?.heard();
        let ready = heard.wait_for(|heard| *heard == Heard::Yes).await;
        ready.map(drop).map_err(|_| RequestError::Stopping { bus: self.0.name.clone() })
    }

    /// Sends a message whose result will be polled for, and returns its id: what an HTTP front end answers with 202 Accepted.
    ///
    /// The message goes to the queue that its route or [`Outgoing::to`] names, or else to this bus's own queue. That it was
    /// accepted is written to the database of this bus's unit of work, in one transaction with the message when the bus has
    /// an outbox and before it is sent otherwise. The bus that handles it keeps the result in *its* database; poll there, or
    /// let both use one.
    ///
    /// # Errors
    /// When the bus has no SQL unit of work that commits with the transaction, when the message cannot be encoded, or when
    /// database or broker fail; the text says whether it may have been sent.
    pub async fn submit(&self, message: impl Into<Outgoing>) -> Result<Uuid> {
        let core = &self.0;
        let results = self.results()?;
        let mut message = message.into();
        let id = message.id;
        message.headers.set(headers::RESULT, "true");
        // Nobody but the table gets an answer: there is no reply-to.
        if message.to.is_none() {
            message.to = Some(core.routes.owner(&message.name).cloned().or_else(|_| core.own_queue())?);
        }
        let rows = core.rows(message, None).await?;
        let accepted = ResultRow::new(id, ACCEPTED, &core.name);
        if core.outbox.is_none() {
            results.write(&accepted).await?;
            core.send_all(&rows).await?;
            return Ok(id);
        }
        let writes = Writes { outbox: rows, statements: vec![results.statement(&accepted)] };
        core.commit_outside(id, writes).await?;
        core.ring();
        Ok(id)
    }

    /// What became of a message that was sent by [`Bus::submit`], or with the header `barid-result: true`. `None`: the database
    /// of this bus knows nothing of it, because it was not submitted here and has not been handled yet, or is long gone.
    ///
    /// Results are kept as long as [`SqlIdempotency::keep_for`](crate::SqlIdempotency::keep_for) says, 7 days without
    /// idempotency.
    ///
    /// # Errors
    /// When the bus keeps no results, or the database fails.
    pub async fn result(&self, id: Uuid) -> Result<Option<MessageResult>> {
        self.results()?.read(id).await?.map(MessageResult::from_row).transpose()
    }

    /// The same, but waits until the result is final, at most `timeout`; what there is then is returned. Cancel safe.
    ///
    /// # Errors
    /// As [`Bus::result`].
    pub async fn wait_result(&self, id: Uuid, timeout: Duration) -> Result<Option<MessageResult>> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut pause = limits::RESULT_POLL;
        loop {
            let result = self.result(id).await?;
            let now = tokio::time::Instant::now();
            if result.as_ref().is_some_and(MessageResult::is_final) || now >= deadline {
                return Ok(result);
            }
            tokio::time::sleep_until((now + pause).min(deadline)).await;
            pause = (pause * 2).min(limits::RESULT_POLL_MAX);
        }
    }

    /// Decodes the data of a result as `M`.
    ///
    /// # Errors
    /// When there is no data, when it is another message, or when it cannot be decoded.
    pub fn decode_result<M: crate::Message>(&self, result: &MessageResult) -> Result<M> {
        match result {
            MessageResult::Succeeded { name: Some(name), data: Some(data), .. } => {
                decode(self.0.codec.as_ref(), name, data)
                    .map_err(|cause| Error::new(format!("the result: {cause}")))
            }
            other => Err(Error::new(format!("there is no data to decode: {other:?}"))),
        }
    }

    fn results(&self) -> Result<&Arc<dyn ResultStore>> {
        self.0.results().ok_or_else(|| {
            Error::permanent(format!(
                "bus {:?} keeps no results: give it a SqlUnitOfWork with commit_with_transaction(true)",
                self.0.name
            ))
        })
    }
}

impl BusCore {
    /// The results, where they can be kept in the transaction of the handlers.
    pub(crate) fn results(&self) -> Option<&Arc<dyn ResultStore>> {
        self.results.as_ref().filter(|_| self.settings.commit_with_transaction)
    }

    /// Commits rows in a unit of work without a handler.
    async fn commit_outside(&self, id: Uuid, writes: Writes) -> Result<()> {
        let Some(unit_of_work) = &self.unit_of_work else {
            return Err(Error::permanent(format!("bus {:?} has no unit of work", self.name)));
        };
        let nobody = Incoming {
            id,
            name: String::new(),
            headers: Headers::new(),
            body: Bytes::new(),
            source: self.name.clone(),
            repeat: Repeat::First,
        };
        let (Begun::Fresh(mut unit) | Begun::Duplicate(mut unit)) =
            unit_of_work.begin(&nobody, &Opening::default()).await?
        else {
            return Err(Error::new("the unit of work did not begin"));
        };
        unit.stage(writes)?;
        let committed = unit.commit().await;
        unit.close().await?;
        Ok(committed?)
    }
}
