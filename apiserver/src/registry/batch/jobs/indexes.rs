//! Lists of indexes such as `0,3-5,9`, growing and below the number of completions.

/// First and last index of each part.
pub(super) type Intervals = Vec<(i64, i64)>;

/// Reads a list; an empty text is an empty list.
pub(super) fn parse(text: &str, completions: i64) -> Result<Intervals, String> {
    let mut all = Intervals::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, previous)) = all.last()
            && *previous >= first
        {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        all.push((first, last));
    }
    Ok(all)
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    let (first, last) = match limits.as_slice() {
        [one] => (*one, None),
        [first, last] => (*first, Some(*last)),
        _ => {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts \
                 separated by '-'"
            ));
        }
    };
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    let from = index(first)?;
    match last.map(index).transpose()? {
        None => Ok((from, from)),
        Some(to) if from >= to => Err(format!("non-increasing order, previous: {from}, current: {to}")),
        Some(to) => Ok((from, to)),
    }
}

/// How many indexes there are.
pub(super) fn count(all: &Intervals) -> i64 {
    all.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index two lists share.
pub(super) fn shared(one: &Intervals, other: &Intervals) -> Option<i64> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a, b)), Some((x, y))) = (one.peek(), other.peek()) {
        if a <= y && x <= b {
            return Some(*a.max(x));
        }
        if b < x {
            one.next()
        } else {
            other.next()
        };
    }
    None
}
