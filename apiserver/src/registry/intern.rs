//! Texts and lists of definitions read at run time, in the form built-in resources have them: for good.
//!
//! Each distinct value is kept once, so that memory grows with what definitions ever said, not with how often they
//! are read.

use std::sync::LazyLock;

use parking_lot::Mutex;

use super::{SelectableField, Subresource};

type Kept<T> = LazyLock<Mutex<Vec<T>>>;

/// A text.
pub fn text(text: &str) -> &'static str {
    static KEPT: Kept<&'static str> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock();
    if let Some(found) = kept.iter().find(|have| **have == text) {
        return found;
    }
    let new: &'static str = Box::leak(text.to_owned().into_boxed_str());
    kept.push(new);
    new
}

/// A list of texts.
pub fn texts<'t>(texts: impl IntoIterator<Item = &'t str>) -> &'static [&'static str] {
    static KEPT: Kept<&'static [&'static str]> = LazyLock::new(Mutex::default);
    list(&KEPT, texts.into_iter().map(text).collect())
}

/// Selectable fields.
pub fn selectable(fields: Vec<SelectableField>) -> &'static [SelectableField] {
    static KEPT: Kept<&'static [SelectableField]> = LazyLock::new(Mutex::default);
    list(&KEPT, fields)
}

/// Subresources.
pub fn subresources(all: Vec<Subresource>) -> &'static [Subresource] {
    static KEPT: Kept<&'static [Subresource]> = LazyLock::new(Mutex::default);
    list(&KEPT, all)
}

fn list<T: PartialEq>(kept: &Kept<&'static [T]>, wanted: Vec<T>) -> &'static [T] {
    let mut kept = kept.lock();
    if let Some(found) = kept.iter().find(|have| ***have == *wanted) {
        return found;
    }
    let new: &'static [T] = Box::leak(wanted.into_boxed_slice());
    kept.push(new);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_kept_once() {
        assert!(std::ptr::eq(text("intern-a"), text(&String::from("intern-a"))));
        assert!(std::ptr::eq(texts(["intern-a", "b"]), texts(["intern-a", "b"])));
        assert_ne!(texts(["intern-a"]), texts(["b"]));
        let status = || subresources(vec![Subresource::Status]);
        assert!(std::ptr::eq(status(), status()));
    }
}
