//! Parts of objects that a reader looks at, compared as they are stored.

use std::ops::Range;

use super::{Entry, SelectablePath, scan::Scanner};
use crate::registry::Missing;

/// Parts of the objects of a resource.
#[derive(Debug)]
pub struct Parts(Scanner);

impl Parts {
    /// The values at these JSON pointers.
    pub fn new(pointers: &[&str]) -> Self {
        let part = |pointer: &&str| SelectablePath {
            name: (*pointer).to_owned(),
            pointer: (*pointer).to_owned(),
            missing: Missing::Is(String::new()),
        };
        Self(Scanner::new(pointers.iter().map(part).collect()))
    }

    /// Whether it is the same object, and these parts of it stand there in the same words. Equal values in other
    /// words count as different.
    pub fn are_same(&self, before: &Entry, after: &Entry) -> bool {
        let (old, new) = (before.json(), after.json());
        let (Ok(was), Ok(is)) = (self.0.scan(old), self.0.scan(new)) else { return false };
        let is_same = |(was, is): (&Option<Range<usize>>, &Option<Range<usize>>)| {
            was.clone().map(|at| &old[at]) == is.clone().map(|at| &new[at])
        };
        before.uid() == after.uid() && was.fields.iter().zip(&is.fields).all(is_same)
    }
}
