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
    headers,
    incoming::Incoming,
    message::Message,
    store::saga::Lookup,
};

/// What a message is to a saga.
pub(crate) enum Kind<M> {
    Starts(By<M>),
    Then(By<M>),
    Timeout,
}

impl<M> Kind<M> {
    pub(super) fn by(&self) -> Option<&By<M>> {
        match self {
            Self::Starts(by) | Self::Then(by) => Some(by),
            Self::Timeout => None,
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
        let Some(by) = self.kind.by() else {
            // A timeout of another saga is none of this one's.
            let ours = message.headers.get(headers::SAGA) == Some(&self.rules.name);
            let id = message.headers.get(headers::SAGA_ID).filter(|_| ours);
            return Ok(id.and_then(|id| id.parse().ok()).map(Lookup::Id));
        };
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
        let role = match self.kind {
            Kind::Starts(_) => Role::Starts,
            Kind::Then(_) => Role::Then,
            Kind::Timeout => Role::Timeout,
        };
        let call = move |cx: Context| -> BoxFuture<'static, Result<()>> {
            Box::pin(async move {
                match begin(&of_the_call, role)? {
                    Begun::Handle => {}
                    Begun::Missing(missing) => return of_the_call.rules.missing.carry_out(missing, cx).await,
                    Begun::TooLate => {
                        tracing::debug!(
                            saga = of_the_call.rules.name,
                            outcome = "saga timeout too late",
                            "ignoring a timeout that was cancelled or handled, or whose saga is completed"
                        );
                        return Ok(());
                    }
                }
                cx.enter_saga(Some(of_the_call));
                let handled = handler.call(body, cx.clone()).await;
                cx.enter_saga(None);
                handled
            })
        };
        Ok(Prepared { call: Box::new(call), saga: Some(instance) })
    }

    /// It is read with the opening text, and would not see what another message of a batch is about to write.
    fn shares(&self) -> bool {
        false
    }

    fn check(&self, provided: &Provided<'_>) -> Result<(), Vec<String>> {
        let saga = Some((TypeId::of::<D>(), std::any::type_name::<D>()));
        H::check(&Provided { saga, ..*provided })
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    fn aggregate(&self) -> Option<&'static str> {
        Some(M::AGGREGATE)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Starts,
    Then,
    Timeout,
}

enum Begun {
    Handle,
    Missing(Missing),
    TooLate,
}

/// Makes the state ready for the handler, or says that there is none.
fn begin<D: Data>(instance: &Instance<D>, role: Role) -> Result<Begun> {
    let looked_for = match &instance.lookup {
        Some(Lookup::Values(values)) => values.clone(),
        Some(Lookup::Id(_)) | None => Vec::new(),
    };
    let mut state = instance.state()?;
    let completed = match &mut *state {
        State::Live(live) if role == Role::Timeout => {
            let fires = live.timeouts.fires(instance.message_id);
            return Ok(if fires { Begun::Handle } else { Begun::TooLate });
        }
        _ if role == Role::Timeout => return Ok(Begun::TooLate),
        State::Live(_) => return Ok(Begun::Handle),
        State::Missing if role == Role::Starts => {
            *state = State::Live(Live::new(&instance.rules.name, looked_for));
            return Ok(Begun::Handle);
        }
        State::Completed(id) => Some(*id),
        State::Missing | State::Unread => None,
    };
    Ok(Begun::Missing(Missing {
        saga: instance.rules.name.clone(),
        looked_for: looked_for
            .into_iter()
            .map(|looked_for| (looked_for.property, looked_for.value))
            .collect(),
        completed,
    }))
}
