//! A real transport that fails when a test asks for it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use barid::{
    Transport,
    transport::{Consumer, Delivery, Inbox, Promises, Publisher, TransportError},
};
use tokio::sync::watch;

/// A transport with faults on demand. Clones share them.
#[derive(Clone)]
pub(crate) struct Faulty {
    real: Arc<dyn Transport>,
    pub(crate) faults: Faults,
}

/// What goes wrong.
#[derive(Clone)]
pub(crate) struct Faults(Arc<Inner>);

struct Inner {
    wanted: watch::Sender<Wanted>,
    /// When receives failed.
    failed: Mutex<Vec<Instant>>,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    /// So many receives fail in a way that passes.
    failing: u32,
    /// So many starts fail in a way that passes.
    refusing: u32,
    /// The next receive fails for good.
    lost: bool,
    /// The next receive panics.
    panic: bool,
    /// Receives never return.
    hanging: bool,
    /// Receives block their thread.
    blocking: bool,
}

impl Faulty {
    pub(crate) fn new(real: impl Transport) -> Self {
        let inner = Inner { wanted: watch::Sender::default(), failed: Mutex::default() };
        Self { real: Arc::new(real), faults: Faults(Arc::new(inner)) }
    }
}

impl Faults {
    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.0.wanted.send_modify(change);
    }

    pub(crate) fn fail(&self, receives: u32) {
        self.want(|wanted| wanted.failing = receives);
    }

    pub(crate) fn refuse(&self, starts: u32) {
        self.want(|wanted| wanted.refusing = starts);
    }

    pub(crate) fn lose(&self) {
        self.want(|wanted| wanted.lost = true);
    }

    pub(crate) fn panic(&self) {
        self.want(|wanted| wanted.panic = true);
    }

    pub(crate) fn hang(&self, hanging: bool) {
        self.want(|wanted| wanted.hanging = hanging);
    }

    pub(crate) fn block(&self, blocking: bool) {
        self.want(|wanted| wanted.blocking = blocking);
    }

    /// The times between one failed receive and the next.
    pub(crate) fn pauses(&self) -> Vec<Duration> {
        let failed = self.0.failed.lock().unwrap();
        failed.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Takes one of what is wanted.
    fn take(&self, from: impl Fn(&mut Wanted) -> bool) -> bool {
        let mut taken = false;
        self.0.wanted.send_if_modified(|wanted| {
            taken = from(wanted);
            false
        });
        taken
    }
}

fn one_of(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

fn lost() -> TransportError {
    TransportError::Lost { broker: "the broker".into(), cause: "the test asked for it".into() }
}

#[async_trait]
impl Transport for Faulty {
    fn promises(&self) -> Promises {
        self.real.promises()
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.real.declare(inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        if self.faults.take(|wanted| one_of(&mut wanted.refusing)) {
            return Err(lost());
        }
        let real = self.real.consumer(inbox).await?;
        let wanted = self.faults.0.wanted.subscribe();
        Ok(Box::new(FaultyConsumer { real, faults: self.faults.clone(), wanted }))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        self.real.publisher().await
    }
}

struct FaultyConsumer {
    real: Box<dyn Consumer>,
    faults: Faults,
    wanted: watch::Receiver<Wanted>,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        loop {
            let now = *self.wanted.borrow_and_update();
            assert!(!self.faults.take(|wanted| std::mem::take(&mut wanted.panic)), "the test asked for it");
            if self.faults.take(|wanted| std::mem::take(&mut wanted.lost)) {
                let (what, cause, remedy) = ("the queue".into(), "it is gone".into(), "declare it".into());
                return Err(TransportError::Misconfigured { what, cause, remedy });
            }
            if self.faults.take(|wanted| one_of(&mut wanted.failing)) {
                self.faults.0.failed.lock().unwrap().push(Instant::now());
                return Err(lost());
            }
            while self.wanted.borrow().blocking {
                std::thread::sleep(Duration::from_millis(5));
            }
            if now.hanging {
                self.wanted.changed().await.unwrap();
                continue;
            }
            tokio::select! {
                biased;
                changed = self.wanted.changed() => changed.unwrap(),
                received = self.real.receive() => return received,
            }
        }
    }

    fn silent_for(&mut self) -> Option<Duration> {
        self.real.silent_for()
    }

    async fn close(self: Box<Self>) -> Result<(), TransportError> {
        self.real.close().await
    }
}
