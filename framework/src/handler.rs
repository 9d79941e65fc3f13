//! Handlers: async functions that ask for what they need, or types that implement [`Handler`].
//!
//! A function's first argument is the message; every other one is something that implements [`FromContext`]. What it asks
//! for is compared with what the bus has when the bus is built, so that a missing thing is not found by the first message.

use std::{any::TypeId, future::Future, marker::PhantomData, sync::Arc};

use crate::{
    codec::{Codec, CodecError},
    context::{Context, States, UnitGuard},
    error::{Error, Result},
    headers::Headers,
    message::Message,
    store::backend::Backend,
    unit_of_work::Capabilities,
};
use async_trait::async_trait;
use futures::future::BoxFuture;

/// A handler that is a type.
///
/// ```
/// # use barid::{Context, Handler, Message, Result};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.place")]
/// # struct PlaceOrder { order_id: u64 }
/// struct Orders;
///
/// #[async_trait::async_trait]
/// impl Handler<PlaceOrder> for Orders {
///     async fn handle(&self, command: PlaceOrder, cx: Context) -> Result<()> {
///         tracing::info!(order = command.order_id, attempt = cx.attempt(), "placing");
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Handler<M: Message>: Send + Sync + 'static {
    /// Handles one message. May run more than once for the same message; with idempotency its effects happen once.
    ///
    /// # Errors
    /// Any error rolls the unit of work back; see [`Error`] for what then happens to the message.
    async fn handle(&self, message: M, cx: Context) -> Result<()>;
}

/// Something that a handler function can ask for by naming its type.
pub trait FromContext: Sized + Send {
    /// Whether a bus has it; asked when the bus is built.
    ///
    /// # Errors
    /// A sentence that names what is missing and how to provide it.
    fn check(provided: &Provided<'_>) -> Result<(), String>;

    /// Takes it from the context of a message.
    ///
    /// # Errors
    /// When it is not to be had right now; fails the message.
    fn from_context(cx: &Context) -> Result<Self>;
}

/// What a bus has to give to its handlers.
pub struct Provided<'a> {
    pub(crate) states: &'a States,
    pub(crate) unit_of_work: Option<&'a Capabilities>,
}

impl Provided<'_> {
    /// Whether a state of type `T` was given to the builder.
    #[must_use]
    pub fn has_state<T: 'static>(&self) -> bool {
        self.states.has(TypeId::of::<T>())
    }
}

impl FromContext for Context {
    fn check(_: &Provided<'_>) -> Result<(), String> {
        Ok(())
    }

    fn from_context(cx: &Context) -> Result<Self> {
        Ok(cx.clone())
    }
}

impl FromContext for Headers {
    fn check(_: &Provided<'_>) -> Result<(), String> {
        Ok(())
    }

    fn from_context(cx: &Context) -> Result<Self> {
        Ok(cx.headers())
    }
}

/// Which attempt this is, from 1. See [`Context::attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl FromContext for Attempt {
    fn check(_: &Provided<'_>) -> Result<(), String> {
        Ok(())
    }

    fn from_context(cx: &Context) -> Result<Self> {
        Ok(Self(cx.attempt()))
    }
}

/// A value that was given to the builder with [`BusBuilder::state`](crate::BusBuilder::state).
#[derive(Clone, Debug)]
pub struct State<T>(pub Arc<T>);

impl<T: Send + Sync + 'static> FromContext for State<T> {
    fn check(provided: &Provided<'_>) -> Result<(), String> {
        if provided.has_state::<T>() {
            return Ok(());
        }
        let name = std::any::type_name::<T>();
        Err(format!("State<{name}> was not provided: call .state({name} {{ .. }}) on the builder"))
    }

    fn from_context(cx: &Context) -> Result<Self> {
        cx.state()
            .map(Self)
            .ok_or_else(|| Error::permanent(format!("no state of type {}", std::any::type_name::<T>())))
    }
}

impl<DB: Backend> FromContext for UnitGuard<DB> {
    fn check(provided: &Provided<'_>) -> Result<(), String> {
        match provided.unit_of_work.and_then(|unit| unit.connection) {
            Some((id, _)) if id == TypeId::of::<DB>() => Ok(()),
            Some((_, name)) => {
                Err(format!("it asks for a unit of work on {}, the bus has one on {name}", DB::DISPLAY))
            }
            None => Err(format!(
                "it asks for a unit of work on {}, the bus has none: call .unit_of_work(SqlUnitOfWork::new(pool))",
                DB::DISPLAY
            )),
        }
    }

    fn from_context(cx: &Context) -> Result<Self> {
        cx.guard()
    }
}

/// What [`BusBuilder::handler`](crate::BusBuilder::handler) takes: an async function or a [`Handler`]. `Args` is inferred.
pub trait IntoHandler<M, Args>: Send + Sync + 'static {
    /// Whether the bus has what it asks for.
    ///
    /// # Errors
    /// One sentence for each thing that is missing.
    fn check(provided: &Provided<'_>) -> Result<(), Vec<String>>;

    /// Calls it.
    fn call(self: &Arc<Self>, message: M, cx: Context) -> BoxFuture<'static, Result<()>>;
}

/// Marks handlers that are types.
#[derive(Debug)]
pub struct ByType;

impl<M: Message, H: Handler<M>> IntoHandler<M, ByType> for H {
    fn check(_: &Provided<'_>) -> Result<(), Vec<String>> {
        Ok(())
    }

    fn call(self: &Arc<Self>, message: M, cx: Context) -> BoxFuture<'static, Result<()>> {
        let handler = Arc::clone(self);
        Box::pin(async move { handler.handle(message, cx).await })
    }
}

macro_rules! functions {
    ($($argument:ident),*) => {
        impl<F, Fut, M, $($argument),*> IntoHandler<M, ($($argument,)*)> for F
        where
            F: Fn(M, $($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<()>> + Send + 'static,
            M: Message,
            $($argument: FromContext + 'static,)*
        {
            #[allow(unused_variables, unused_mut)] // a function without arguments needs neither
            fn check(provided: &Provided<'_>) -> Result<(), Vec<String>> {
                let mut missing = Vec::new();
                $(missing.extend($argument::check(provided).err());)*
                if missing.is_empty() { Ok(()) } else { Err(missing) }
            }

            #[allow(non_snake_case, unused_variables)] // the arguments are named after their types
            fn call(self: &Arc<Self>, message: M, cx: Context) -> BoxFuture<'static, Result<()>> {
                $(let $argument = match $argument::from_context(&cx) {
                    Ok(value) => value,
                    Err(error) => return Box::pin(std::future::ready(Err(error))),
                };)*
                // The context would otherwise keep the handler's view alive next to what the handler owns.
                drop(cx);
                Box::pin(self(message, $($argument),*))
            }
        }
    };
}

functions!();
functions!(A);
functions!(A, B);
functions!(A, B, C);
functions!(A, B, C, D);
functions!(A, B, C, D, E);

/// One handler call whose message is decoded already.
pub(crate) type Call = Box<dyn FnOnce(Context) -> BoxFuture<'static, Result<()>> + Send>;

/// A handler whose message type is forgotten.
pub(crate) trait Erased: Send + Sync {
    /// Decodes the message; the returned call runs the handler.
    fn prepare(&self, codec: &dyn Codec, body: &[u8]) -> Result<Call, CodecError>;
    fn check(&self, provided: &Provided<'_>) -> Result<(), Vec<String>>;
    fn type_name(&self) -> &'static str;
    /// The aggregate of its message, when it is known.
    fn aggregate(&self) -> Option<&'static str> {
        None
    }
}

pub(crate) struct Typed<H, M, Args> {
    handler: Arc<H>,
    types: PhantomData<fn(M, Args)>,
}

impl<H, M, Args> Typed<H, M, Args> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler: Arc::new(handler), types: PhantomData }
    }
}

impl<H, M, Args> Erased for Typed<H, M, Args>
where
    H: IntoHandler<M, Args>,
    M: Message,
    Args: 'static,
{
    fn prepare(&self, codec: &dyn Codec, body: &[u8]) -> Result<Call, CodecError> {
        let mut message = None;
        codec.decode(body, &mut |deserializer| {
            message = Some(M::deserialize(deserializer)?);
            Ok(())
        })?;
        let message = message.ok_or_else(|| CodecError("the codec decoded nothing".to_owned()))?;
        let handler = Arc::clone(&self.handler);
        Ok(Box::new(move |cx| handler.call(message, cx)))
    }

    fn check(&self, provided: &Provided<'_>) -> Result<(), Vec<String>> {
        H::check(provided)
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    fn aggregate(&self) -> Option<&'static str> {
        Some(M::AGGREGATE)
    }
}
