//! `#[derive(Message)]`: gives a type its wire name.
//!
//! Used through `barid::Message`. The macro only reads the two attributes and checks them; everything else is in the trait.

use proc_macro::TokenStream;
use quote::quote;
use syn::{
    DeriveInput, Error, LitStr, Path, Token, parse_macro_input, punctuated::Punctuated, spanned::Spanned,
};

const NAME_BYTES_MAX: usize = 200;

/// Implements `barid::Message`.
///
/// `#[message(name = "orders.placed")]` is required: a stable name, `[A-Za-z0-9._-]{1,200}`. `aggregate = "..."` sets the
/// first half of the ordering key, by default the name up to its first dot. `extends(OrderPlaced, "audit.entry")` says that
/// an event is also an event of these types or names: who handles one of them gets it too, and reads it as that one.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<proc_macro2::TokenStream, Error> {
    let mut name = None;
    let mut aggregate = None;
    let mut bases = Vec::new();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("message")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("extends") {
                let list;
                syn::parenthesized!(list in meta.input);
                bases.extend(Punctuated::<Base, Token![,]>::parse_terminated(&list)?);
                return Ok(());
            }
            let slot = match meta.path.get_ident() {
                Some(key) if key == "name" => &mut name,
                Some(key) if key == "aggregate" => &mut aggregate,
                _ => {
                    return Err(meta.error("expected `name = \"..\"`, `aggregate = \"..\"` or `extends(..)`"));
                }
            };
            *slot = Some(checked(&meta.value()?.parse::<LitStr>()?)?);
            Ok(())
        })?;
    }
    let name = name.ok_or_else(|| {
        Error::new(input.span(), "a message needs a chosen wire name: #[message(name = \"orders.place\")]")
    })?;
    let aggregate = aggregate.map(|aggregate| quote!(const AGGREGATE: &'static str = #aggregate;));
    let bases =
        (!bases.is_empty()).then(|| quote!(const BASES: &'static [::barid::message::Base] = &[#(#bases),*];));
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics ::barid::Message for #ident #type_generics #where_clause {
            const NAME: &'static str = #name;
            #aggregate
            #bases
        }
    })
}

/// What stands in `extends(..)`: a type, or the name of a message whose type is not at hand.
enum Base {
    Type(Path),
    Name(String),
}

impl syn::parse::Parse for Base {
    fn parse(input: syn::parse::ParseStream<'_>) -> Result<Self, Error> {
        if input.peek(LitStr) {
            Ok(Self::Name(checked(&input.parse()?)?))
        } else {
            Ok(Self::Type(input.parse()?))
        }
    }
}

impl quote::ToTokens for Base {
    fn to_tokens(&self, tokens: &mut proc_macro2::TokenStream) {
        tokens.extend(match self {
            Self::Type(path) => quote!(::barid::message::Base::of::<#path>()),
            Self::Name(name) => quote!(::barid::message::Base::named(#name)),
        });
    }
}

fn checked(literal: &LitStr) -> Result<String, Error> {
    let value = literal.value();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&value.len()) && value.bytes().all(allowed) {
        Ok(value)
    } else {
        Err(Error::new(literal.span(), "expected 1 to 200 characters out of A-Z a-z 0-9 . _ -"))
    }
}
