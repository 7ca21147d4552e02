//! The program and the test that docs/testing.md shows.

#![allow(missing_docs, unreachable_pub, clippy::panic)]

// The test names the crate that it tests.
extern crate self as answers;

#[path = "users_program/lib.rs"]
mod program;
#[path = "users_program/training.rs"]
mod training;

pub use program::{Outcome, train};

#[test]
fn the_guide_shows_this_program() {
    let page = finetuner_docs::page("testing").map_or("", |page| page.markdown);
    for file in [
        include_str!("users_program/lib.rs"),
        include_str!("users_program/training.rs"),
    ] {
        let block = format!("```rs\n{file}```");
        assert!(
            page.contains(&block),
            "docs/testing.md differs from crates/test/tests/users_program:\n{file}"
        );
    }
}
