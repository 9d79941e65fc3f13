//! An address whose driver was not compiled in. Only a build without that driver can show it: the newcomer's.

#![allow(clippy::unwrap_used)] // a test

#[cfg(all(feature = "sqlite", not(feature = "postgres")))]
#[tokio::test]
async fn names_the_scheme_and_the_feature_and_hides_the_password() {
    let error =
        barid::store::AnyPool::connect("postgres://orders:geheim@localhost/orders", 1).await.unwrap_err();
    let said = format!("{error} {error:?}");
    for part in ["postgres", "feature"] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    assert!(!said.contains("geheim"), "{said}");
}
