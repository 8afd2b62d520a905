//! The protocol as a runtime meets it: variables, input and output, exit codes,
//! versions, shapes of results.

mod environment;
mod shapes;
mod streams;

use testkit::Case;

pub(crate) fn list() -> Vec<Case> {
    let mut list = environment::list();
    list.extend(shapes::list());
    list.extend(streams::list());
    list
}
