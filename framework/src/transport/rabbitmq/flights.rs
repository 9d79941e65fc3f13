//! Publishes whose confirms are awaited, on one channel.
//!
//! lapin gives one future per message. They are polled together here, without a task per message, and drained
//! *completely*: what [`Flights::drain`] leaves behind was not resolved when the last resolved one was. The shard needs
//! that to tell which message a return belongs to.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, Stream as _},
};
use lapin::{Channel, Confirmation, options::BasicPublishOptions};

use super::wire::Message;

/// One message's way from the client's buffer to its confirm.
struct Flight {
    number: u64,
    polls: Arc<AtomicUsize>,
    answer: BoxFuture<'static, lapin::Result<Confirmation>>,
}

impl Future for Flight {
    type Output = (u64, lapin::Result<Confirmation>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let number = self.number;
        self.answer.as_mut().poll(cx).map(|answer| (number, answer))
    }
}

/// The flights of one channel.
#[derive(Default)]
pub(super) struct Flights {
    set: FuturesUnordered<Flight>,
    polls: Arc<AtomicUsize>,
}

impl Flights {
    /// Puts the message into the client's buffer, behind all that were put there before. Does not wait.
    pub(super) fn launch(&mut self, number: u64, channel: Arc<Channel>, message: Message, body: Bytes) {
        let mut answer: BoxFuture<'static, lapin::Result<Confirmation>> = Box::pin(async move {
            let Message { exchange, routing_key, properties } = message;
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
        });
        // The first poll buffers the frames, which fixes the order. The set polls again with its own waker.
        let answer = match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
            Poll::Pending => answer,
        };
        self.set.push(Flight { number, polls: self.polls.clone(), answer });
    }

    /// Moves every answer that is there to `answers`.
    pub(super) fn drain(
        &mut self,
        cx: &mut Context<'_>,
        answers: &mut Vec<(u64, lapin::Result<Confirmation>)>,
    ) {
        loop {
            let before = self.polls.load(Ordering::Relaxed);
            match Pin::new(&mut self.set).poll_next(cx) {
                Poll::Ready(Some(answer)) => answers.push(answer),
                Poll::Ready(None) => return,
                // The set may stop early to be fair to other tasks. Only when it had nothing to poll it is drained.
                Poll::Pending if self.polls.load(Ordering::Relaxed) == before => return,
                Poll::Pending => {}
            }
        }
    }
}
