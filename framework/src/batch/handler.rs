//! Handlers that take several messages of one type.

use std::{any::Any, future::Future, marker::PhantomData, sync::Arc};

use futures::future::BoxFuture;

use super::{Batch, Received};
use crate::{
    codec::Codec,
    context::Context,
    error::{Error, Result},
    handler::{Call, Erased, FromContext, Prepared, Provided, decoded},
    incoming::Incoming,
    message::Message,
};

/// What [`BusBuilder::batch_handler`](crate::BusBuilder::batch_handler) takes: an async function whose first argument is
/// `Vec<M>` or [`Batch<M>`], and whose others are what it asks for. `Args` is inferred.
///
/// The unit of work is the batch's. What else belongs to one message (headers, id, attempt, cause of what is sent) is that of
/// the first message of the batch; [`Batch`] has the others'.
pub trait IntoBatchHandler<M, Args>: Send + Sync + 'static {
    /// Whether the bus has what it asks for.
    ///
    /// # Errors
    /// One sentence for each thing that is missing.
    fn check(provided: &Provided<'_>) -> Result<(), Vec<String>>;

    /// Calls it.
    fn call(self: &Arc<Self>, batch: Batch<M>, cx: Context) -> BoxFuture<'static, Result<()>>;
}

/// Marks handlers that take `Vec<M>`.
#[derive(Debug)]
pub struct InVec;

/// Marks handlers that take [`Batch<M>`].
#[derive(Debug)]
pub struct InBatch;

macro_rules! functions {
    ($marker:ident, $batch:ty, $convert:expr; $($argument:ident),*) => {
        impl<Func, Fut, M, $($argument),*> IntoBatchHandler<M, ($marker, $($argument,)*)> for Func
        where
            Func: Fn($batch, $($argument),*) -> Fut + Send + Sync + 'static,
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
            fn call(self: &Arc<Self>, batch: Batch<M>, cx: Context) -> BoxFuture<'static, Result<()>> {
                $(let $argument = match $argument::from_context(&cx) {
                    Ok(value) => value,
                    Err(error) => return Box::pin(std::future::ready(Err(error))),
                };)*
                drop(cx);
                Box::pin(self($convert(batch), $($argument),*))
            }
        }
    };
}

macro_rules! both {
    ($($argument:ident),*) => {
        functions!(InVec, Vec<M>, Batch::into_messages; $($argument),*);
        functions!(InBatch, Batch<M>, std::convert::identity; $($argument),*);
    };
}

both!();
both!(A);
both!(A, B);
both!(A, B, C);
both!(A, B, C, D);
both!(A, B, C, D, E);

pub(crate) struct TypedBatch<H, M, Args> {
    handler: Arc<H>,
    types: PhantomData<fn(M, Args)>,
}

impl<H, M, Args> TypedBatch<H, M, Args> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler: Arc::new(handler), types: PhantomData }
    }
}

impl<H, M, Args> Erased for TypedBatch<H, M, Args>
where
    H: IntoBatchHandler<M, Args>,
    M: Message,
    Args: 'static,
{
    /// In a batch the call waits until the handler was called for all; alone it is a batch of one.
    fn prepare(&self, codec: &dyn Codec, message: &Incoming) -> Result<Prepared> {
        let message: M = decoded(codec, &message.body)?;
        let handler = Arc::clone(&self.handler);
        let call: Call = Box::new(move |cx: Context| {
            let received = Received { message, context: cx.clone() };
            let Some(seat) = cx.0.seat.clone() else {
                return handler.call(Batch::new(vec![received]), cx);
            };
            Box::pin(async move {
                let call = Box::new(move |items: Vec<Box<dyn Any + Send>>| call(&handler, items));
                seat.park(Box::new(received), call).await
            })
        });
        Ok(Prepared { call, saga: None })
    }

    fn check(&self, provided: &Provided<'_>) -> Result<(), Vec<String>> {
        H::check(provided)
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    fn gathers(&self) -> bool {
        true
    }

    fn aggregate(&self) -> Option<&'static str> {
        Some(M::AGGREGATE)
    }
}

fn call<H, M, Args>(handler: &Arc<H>, items: Vec<Box<dyn Any + Send>>) -> BoxFuture<'static, Result<()>>
where
    H: IntoBatchHandler<M, Args>,
    M: Message,
{
    let downcast = |item: Box<dyn Any + Send>| item.downcast::<Received<M>>().map(|item| *item).ok();
    let messages: Option<Vec<_>> = items.into_iter().map(downcast).collect();
    let Some((messages, cx)) =
        messages.and_then(|all| all.first().map(|first| first.context.clone()).map(|cx| (all, cx)))
    else {
        let said = format!("messages of another type than {} were gathered", std::any::type_name::<M>());
        return Box::pin(std::future::ready(Err(Error::permanent(said))));
    };
    handler.call(Batch::new(messages), cx)
}
