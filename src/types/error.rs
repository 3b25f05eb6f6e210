//! Errors as texts for people.

/// An error with its causes; one that repeats its cause says it once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The first text of a chain that holds the text of its own cause: an error says its part only.
#[cfg(test)]
pub fn repeated(error: &dyn std::error::Error) -> Option<String> {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if text.contains(&cause_text) {
            return Some(text);
        }
        text = cause_text;
        next = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::{chain, repeated};

    /// An error with a cause, shown as it is written.
    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn every_cause_is_told_once() {
        let disk = || Some(Box::new(Layer("no such disk", None)));
        assert_eq!(chain(&Layer("cannot open", disk())), "cannot open: no such disk");
        assert_eq!(chain(&Layer("cannot open: no such disk", disk())), "cannot open: no such disk");
        let repeated = Layer("cannot start", Some(Box::new(Layer("cannot open: no such disk", disk()))));
        assert_eq!(chain(&repeated), "cannot start: cannot open: no such disk");
    }

    #[test]
    fn an_error_that_says_its_cause_itself_is_found_at_any_depth() {
        let disk = || Some(Box::new(Layer("no such disk", None)));
        let open = |text| Layer("cannot start", Some(Box::new(Layer(text, disk()))));
        assert_eq!(repeated(&open("cannot open")), None);
        assert_eq!(repeated(&open("no such disk, so it is not opened")).unwrap(), "no such disk, so it is not opened");
    }
}
