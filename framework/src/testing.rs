//! What the tests of a program need that extends Barid. Behind the feature `test-kit`; never in a release build.

pub mod participants;
