//! Declaring a saga: which messages it handles, and how each finds its instance.

use std::{fmt, future::Future, sync::Arc};

use super::{
    Data,
    handler::{Kind, SagaHandler},
    missing::{Missing, Policy, WhenMissing},
};
use crate::{
    context::Context,
    error::{Error, Result},
    handler::{Erased, IntoHandler},
    headers::Headers,
    limits,
    message::Message,
    store::saga::Correlation,
};

/// How a message finds its saga: by the value of a property. Made by [`by`] and [`by_header`].
#[must_use = "it does nothing until it is given to a saga"]
pub struct By<M>(Vec<(String, Extract<M>)>);

type Extract<M> = Box<dyn Fn(&M, &Headers) -> Option<String> + Send + Sync>;

/// The saga whose `property` has the value that `value` takes from the message.
pub fn by<M: Message, V: ToString>(
    property: impl Into<String>,
    value: impl Fn(&M) -> V + Send + Sync + 'static,
) -> By<M> {
    By(Vec::new()).or(property, value)
}

/// The saga whose `property` has the value of this header. A message without the header concerns no saga by it.
pub fn by_header<M: Message>(property: impl Into<String>, header: impl Into<String>) -> By<M> {
    By(Vec::new()).or_header(property, header)
}

impl<M: Message> By<M> {
    /// And if there is none, the one whose other `property` has this value.
    pub fn or<V: ToString>(
        self,
        property: impl Into<String>,
        value: impl Fn(&M) -> V + Send + Sync + 'static,
    ) -> Self {
        self.with(property, Box::new(move |message, _| Some(value(message).to_string())))
    }

    /// And if there is none, the one whose other `property` has the value of this header.
    pub fn or_header(self, property: impl Into<String>, header: impl Into<String>) -> Self {
        let header = header.into();
        self.with(property, Box::new(move |_, headers| headers.get(&header).map(str::to_owned)))
    }

    fn with(mut self, property: impl Into<String>, extract: Extract<M>) -> Self {
        self.0.push((property.into(), extract));
        self
    }

    /// The values of a message.
    pub(super) fn values(&self, message: &M, headers: &Headers) -> Result<Vec<Correlation>> {
        let value =
            |(property, extract): &(String, Extract<M>)| Some((property.clone(), extract(message, headers)?));
        self.0.iter().filter_map(value).map(|(property, value)| checked(property, value)).collect()
    }

    pub(super) fn properties(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(property, _)| property.as_str())
    }
}

impl<M> fmt::Debug for By<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(property, _)| property)).finish()
    }
}

/// A correlation that every database can hold.
pub(super) fn checked(property: String, value: String) -> Result<Correlation> {
    let fits = |text: &str| !text.is_empty() && text.len() <= limits::NAME_BYTES_MAX && !text.contains('\0');
    if fits(&property) && fits(&value) {
        return Ok(Correlation { property, value });
    }
    Err(Error::permanent(format!(
        "a saga cannot be found by {property:?} = {value:?}: both must have 1 to {} bytes, none of them NUL",
        limits::NAME_BYTES_MAX
    )))
}

/// What to do with a state after somebody else has saved another one meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It is merged: save it over the other one.
    Save,
    /// It cannot be merged: handle the message again from the start.
    Again,
}

/// Declares a saga. Give it to [`BusBuilder::saga`](crate::BusBuilder::saga).
#[must_use = "a saga does nothing until it is given to a bus"]
pub struct Definition<D> {
    rules: Rules<D>,
    handlers: Vec<Declared<D>>,
}

/// What holds for all messages of a saga.
pub(crate) struct Rules<D> {
    pub(crate) name: String,
    pub(super) missing: Policy,
    pub(super) resolve: Option<Resolve<D>>,
}

type Resolve<D> = Box<dyn Fn(&mut D, &D) -> Resolution + Send + Sync>;

struct Declared<D> {
    message: &'static str,
    starts: bool,
    times_out: bool,
    properties: Vec<String>,
    finish: Box<Finish<D>>,
}

/// Makes the handler, once everything was said about its saga.
type Finish<D> = dyn FnOnce(&Arc<Rules<D>>) -> Arc<dyn Erased> + Send;

/// A saga that was given to a bus, for looking at it when the bus is built.
pub(crate) struct Given {
    pub(crate) name: String,
    /// What it handles, and with which handler.
    pub(crate) handlers: Vec<(&'static str, Arc<dyn Erased>)>,
    pub(crate) starts: bool,
    /// Whether it needs a schedule.
    pub(crate) times_out: bool,
    pub(crate) properties: Vec<String>,
}

impl<D: Data> Definition<D> {
    pub(super) fn new(name: String) -> Self {
        let missing = Policy::Said(WhenMissing::default());
        Self { rules: Rules { name, missing, resolve: None }, handlers: Vec::new() }
    }

    /// A message that starts a saga when there is none for its values, and otherwise goes to the one there is. Several messages may
    /// start the same saga, whichever comes first.
    pub fn starts_with<M: Message, Args: 'static>(
        self,
        by: By<M>,
        handler: impl IntoHandler<M, Args>,
    ) -> Self {
        self.with(Kind::Starts(by), handler)
    }

    /// A message for a saga that exists; if there is none, [`Definition::when_missing`] says what happens.
    pub fn then<M: Message, Args: 'static>(self, by: By<M>, handler: impl IntoHandler<M, Args>) -> Self {
        self.with(Kind::Then(by), handler)
    }

    /// What follows when a timeout is due that a handler set with [`Saga::timeout`](super::Saga::timeout).
    pub fn on_timeout<M: Message, Args: 'static>(self, handler: impl IntoHandler<M, Args>) -> Self {
        self.with(Kind::Timeout, handler)
    }

    /// What to do with a message when there is no saga for it. Default: [`WhenMissing::Ignore`].
    pub fn when_missing(mut self, policy: WhenMissing) -> Self {
        self.rules.missing = Policy::Said(policy);
        self
    }

    /// Calls `function` when there is no saga for a message, in the message's unit of work.
    pub fn when_missing_call<Fut>(
        mut self,
        function: impl Fn(Missing, Context) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.rules.missing = Policy::Call(Arc::new(move |missing, cx| Box::pin(function(missing, cx))));
        self
    }

    /// Merges instead of handling the message again: `resolve` gets the state as the handler left it, to change it, and the state
    /// that somebody else has saved since it was read.
    ///
    /// It costs a round trip a message: such a saga is saved by a statement of its own before the closing text, and its row is locked
    /// from then on. After [`SAGA_MERGES_MAX`](crate::limits::SAGA_MERGES_MAX) merges the message fails, which counts as an attempt.
    /// What the handler did besides (business rows, messages) stays as it is: leave this alone unless that is right.
    pub fn resolve_conflict(
        mut self,
        resolve: impl Fn(&mut D, &D) -> Resolution + Send + Sync + 'static,
    ) -> Self {
        self.rules.resolve = Some(Box::new(resolve));
        self
    }

    fn with<M: Message, Args: 'static>(mut self, kind: Kind<M>, handler: impl IntoHandler<M, Args>) -> Self {
        let properties = kind.by().map(|by| by.properties().map(str::to_owned).collect());
        self.handlers.push(Declared {
            message: M::NAME,
            starts: matches!(kind, Kind::Starts(_)),
            times_out: matches!(kind, Kind::Timeout),
            properties: properties.unwrap_or_default(),
            finish: Box::new(move |rules| Arc::new(SagaHandler::new(Arc::clone(rules), kind, handler))),
        });
        self
    }

    pub(crate) fn given(self) -> Given {
        let rules = Arc::new(self.rules);
        Given {
            name: rules.name.clone(),
            starts: self.handlers.iter().any(|handler| handler.starts),
            times_out: self.handlers.iter().any(|handler| handler.times_out),
            properties: self.handlers.iter().flat_map(|handler| handler.properties.clone()).collect(),
            handlers: self
                .handlers
                .into_iter()
                .map(|handler| (handler.message, (handler.finish)(&rules)))
                .collect(),
        }
    }
}

impl<D> fmt::Debug for Definition<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<_> = self.handlers.iter().map(|handler| handler.message).collect();
        f.debug_struct("Definition")
            .field("name", &self.rules.name)
            .field("messages", &messages)
            .finish_non_exhaustive()
    }
}
