//! A scope that takes back what a failed ADD did.
//!
//! ```
//! # use attach::undo;
//! # let mut world = vec![];
//! let outcome: cni::Result<()> = undo::scope(&mut world, |world, undo| {
//!     world.push("veth");
//!     undo.push("remove the veth pair", |world: &mut Vec<_>| { world.pop(); Ok(()) });
//!     Err(cni::Error::internal("no address left"))
//! });
//! assert!(outcome.is_err() && world.is_empty());
//! ```
//!
//! A closure scope and not `Drop`: a release build aborts on panic, and `Drop`
//! cannot return an error. What each step undoes should be the very function
//! DEL calls, so that a test of the rollback also tests DEL.

use cni::{Error, Result};

/// The steps to take back, in the order they were done. `W` is the world they
/// act on, usually a [`crate::sandbox::Sandbox`].
pub struct Undo<'r, W> {
    steps: Vec<Step<'r, W>>,
}

struct Step<'r, W> {
    what: &'static str,
    take_back: TakeBack<'r, W>,
}

type TakeBack<'r, W> = Box<dyn FnOnce(&mut W) -> Result<()> + 'r>;

impl<'r, W> Undo<'r, W> {
    /// From here on, a failure also does `take_back`; `what` names it in an
    /// error.
    pub fn push(&mut self, what: &'static str, take_back: impl FnOnce(&mut W) -> Result<()> + 'r) {
        self.steps.push(Step { what, take_back: Box::new(take_back) });
    }

    /// [`Undo::push`] on the line that creates: hands `made` through, and
    /// `remove` gets a copy of it.
    pub fn after<T: Clone + 'r>(
        &mut self,
        made: T,
        what: &'static str,
        remove: impl FnOnce(&mut W, T) -> Result<()> + 'r,
    ) -> T {
        let copy = made.clone();
        self.push(what, move |world| remove(world, copy));
        made
    }
}

/// Runs `body`. When it fails, takes back all its steps, last first, whatever
/// goes wrong meanwhile; the first error stays the message, errors of the undo
/// become its details.
///
/// # Errors
/// Those of `body`.
pub fn scope<'r, W, T>(
    world: &mut W,
    body: impl FnOnce(&mut W, &mut Undo<'r, W>) -> Result<T>,
) -> Result<T> {
    let mut undo = Undo { steps: Vec::new() };
    body(world, &mut undo).map_err(|error| {
        undo.steps.into_iter().rev().fold(error, |error: Error, step| {
            match (step.take_back)(world) {
                Ok(()) => error,
                Err(failed) => error.with_details(format!("undo: {}: {failed}", step.what)),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_keeps_everything_and_failure_takes_back_last_first() {
        let mut log = vec![];
        let outcome = scope(&mut log, |log: &mut Vec<&str>, undo| {
            log.push("a");
            undo.push("undo a", |log| {
                log.push("-a");
                Ok(())
            });
            Ok(())
        });
        assert_eq!((outcome, log), (Ok(()), vec!["a"]));

        let mut log = vec![];
        let error = scope(&mut log, |_: &mut Vec<String>, undo| {
            for name in ["a", "b", "c"] {
                undo.after(name.to_owned(), "remove it", |log, name| {
                    log.push(format!("-{name}"));
                    if name == "b" { Err(Error::internal("b is stuck")) } else { Ok(()) }
                });
            }
            Err::<(), _>(Error::invalid_config("nope"))
        })
        .expect_err("fails");
        assert_eq!(log, ["-c", "-b", "-a"]);
        assert_eq!(
            error,
            Error::invalid_config("nope").with_details("undo: remove it: b is stuck")
        );
    }
}
