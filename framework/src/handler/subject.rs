//! What the first argument of a handler may be.

use std::sync::Arc;

use super::{
    Erased, Failed, IntoHandler, Typed,
    failed::{Attempted, TypedFailed},
};
use crate::message::Message;

/// The first argument of a handler: a [`Message`], or [`Failed`] with the message in it. Not meant for others.
pub trait Subject: sealed::Sealed + Send + Sized + 'static {
    /// The wire name of the message.
    const NAME: &'static str;
    #[doc(hidden)]
    #[allow(private_interfaces)] // nobody outside can call it
    const LEVEL: Level;

    #[doc(hidden)]
    #[allow(private_interfaces)] // nobody outside can call it
    fn erased<H: IntoHandler<Self, Args>, Args: 'static>(handler: H) -> Arc<dyn Erased>;
}

/// When a handler is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// For every delivery.
    First,
    /// When the attempts are used up.
    Second,
}

impl Level {
    /// Which handlers a delivery is for.
    pub(crate) fn of(attempted: Option<&Attempted>) -> Self {
        if attempted.is_some() { Self::Second } else { Self::First }
    }
}

impl<M: Message> Subject for M {
    const NAME: &'static str = <M as Message>::NAME;
    #[allow(private_interfaces)] // see the trait
    const LEVEL: Level = Level::First;

    #[allow(private_interfaces)] // see the trait
    fn erased<H: IntoHandler<Self, Args>, Args: 'static>(handler: H) -> Arc<dyn Erased> {
        Arc::new(Typed::new(handler))
    }
}

impl<M: Message> Subject for Failed<M> {
    const NAME: &'static str = <M as Message>::NAME;
    #[allow(private_interfaces)] // see the trait
    const LEVEL: Level = Level::Second;

    #[allow(private_interfaces)] // see the trait
    fn erased<H: IntoHandler<Self, Args>, Args: 'static>(handler: H) -> Arc<dyn Erased> {
        Arc::new(TypedFailed::new(handler))
    }
}

mod sealed {
    use super::{Failed, Message};

    pub trait Sealed {}
    impl<M: Message> Sealed for M {}
    impl<M: Message> Sealed for Failed<M> {}
}
