//! A handler of a saga: finds out which instance a message concerns, and calls the user's function with it.

use std::{any::TypeId, marker::PhantomData, sync::Arc};

use futures::future::BoxFuture;

use super::{
    Data,
    definition::{By, Rules},
    instance::Instance,
    missing::Missing,
    state::{Live, State},
};
use crate::{
    codec::Codec,
    context::Context,
    error::{Error, Result},
    handler::{Erased, IntoHandler, Prepared, Provided, decoded},
    incoming::Incoming,
    message::Message,
    store::saga::Lookup,
};

/// What a message is to a saga.
pub(crate) enum Kind<M> {
    Starts(By<M>),
    Then(By<M>),
}

impl<M> Kind<M> {
    pub(super) fn by(&self) -> Option<&By<M>> {
        match self {
            Self::Starts(by) | Self::Then(by) => Some(by),
        }
    }
}

pub(super) struct SagaHandler<D, H, M, Args> {
    rules: Arc<Rules<D>>,
    kind: Kind<M>,
    handler: Arc<H>,
    args: PhantomData<fn(Args)>,
}

impl<D, H, M, Args> SagaHandler<D, H, M, Args> {
    pub(super) fn new(rules: Arc<Rules<D>>, kind: Kind<M>, handler: H) -> Self {
        Self { rules, kind, handler: Arc::new(handler), args: PhantomData }
    }
}

impl<D, H, M, Args> SagaHandler<D, H, M, Args>
where
    D: Data,
    M: Message,
{
    fn lookup(&self, decoded: &M, message: &Incoming) -> Result<Option<Lookup>> {
        let (Kind::Starts(by) | Kind::Then(by)) = &self.kind;
        let values = by.values(decoded, &message.headers)?;
        if values.is_empty() && matches!(self.kind, Kind::Starts(_)) {
            let properties: Vec<_> = by.properties().collect();
            return Err(Error::permanent(format!(
                "the message starts saga {:?} and has no value for {}",
                self.rules.name,
                properties.join(" or ")
            )));
        }
        Ok((!values.is_empty()).then_some(Lookup::Values(values)))
    }
}

impl<D, H, M, Args> Erased for SagaHandler<D, H, M, Args>
where
    D: Data,
    H: IntoHandler<M, Args>,
    M: Message,
    Args: 'static,
{
    fn prepare(&self, codec: &dyn Codec, message: &Incoming) -> Result<Prepared> {
        let body: M = decoded(codec, &message.body)?;
        let lookup = self.lookup(&body, message)?;
        let instance = Arc::new(Instance::new(Arc::clone(&self.rules), lookup, message.id));
        let (of_the_call, handler) = (Arc::clone(&instance), Arc::clone(&self.handler));
        let starts = matches!(self.kind, Kind::Starts(_));
        let call = move |cx: Context| -> BoxFuture<'static, Result<()>> {
            Box::pin(async move {
                if let Some(missing) = begin(&of_the_call, starts)? {
                    return of_the_call.rules.missing.carry_out(missing, cx).await;
                }
                cx.enter_saga(Some(of_the_call));
                let handled = handler.call(body, cx.clone()).await;
                cx.enter_saga(None);
                handled
            })
        };
        Ok(Prepared { call: Box::new(call), saga: Some(instance) })
    }

    fn check(&self, provided: &Provided<'_>) -> Result<(), Vec<String>> {
        let saga = Some((TypeId::of::<D>(), std::any::type_name::<D>()));
        H::check(&Provided { saga, ..*provided })
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<H>()
    }
}

/// Makes the state ready for the handler, or says that there is none.
fn begin<D: Data>(instance: &Instance<D>, starts: bool) -> Result<Option<Missing>> {
    let looked_for = match &instance.lookup {
        Some(Lookup::Values(values)) => values.clone(),
        Some(Lookup::Id(_)) | None => Vec::new(),
    };
    let mut state = instance.state()?;
    let completed = match &*state {
        State::Live(_) => return Ok(None),
        State::Missing if starts => {
            *state = State::Live(Live::new(looked_for));
            return Ok(None);
        }
        State::Completed(id) => Some(*id),
        State::Missing | State::Unread => None,
    };
    Ok(Some(Missing {
        saga: instance.rules.name.clone(),
        looked_for: looked_for
            .into_iter()
            .map(|looked_for| (looked_for.property, looked_for.value))
            .collect(),
        completed,
    }))
}
