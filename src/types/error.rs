//! Errors as texts for people.
//!
//! The `Display` of an error says its own part only, and `source` keeps its cause. Whoever shows an error to a person (a line of the log,
//! a status, a command's last words) tells the whole of it by [`chain`], and nothing else joins causes. Errors of libraries that say
//! their cause themselves are not told twice.

use std::error::Error;

/// An error with its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        // What is only a wrapping of its cause has no text of its own.
        let joint = if text.is_empty() { "" } else { ": " };
        text = format!("{text}{joint}{cause}");
    }
    text
}

/// The causes of an error, outermost first, each as a text that what was said before does not end with.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut said = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.ends_with(&text) {
            said.clone_from(&text);
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}

/// The first text of a chain that holds the text of its own cause: an error says its part only.
#[cfg(test)]
pub fn repeated(error: &dyn Error) -> Option<String> {
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

    use super::*;

    /// An error with a cause, shown as it is written.
    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    fn disk() -> Option<Box<Layer>> {
        Some(Box::new(Layer("no such disk", None)))
    }

    #[test]
    fn every_cause_is_told_once() {
        assert_eq!(chain(&Layer("cannot open", disk())), "cannot open: no such disk");
        assert_eq!(chain(&Layer("cannot open: no such disk", disk())), "cannot open: no such disk");
        let repeated = Layer("cannot start", Some(Box::new(Layer("cannot open: no such disk", disk()))));
        assert_eq!(chain(&repeated), "cannot start: cannot open: no such disk");
    }

    #[test]
    fn the_causes_of_an_error_are_those_beneath_it() {
        assert_eq!(causes(&Layer("cannot open", None)), Vec::<String>::new());
        let deep = Layer("cannot start", Some(Box::new(Layer("cannot open", disk()))));
        assert_eq!(causes(&deep), ["cannot open", "no such disk"]);
    }

    #[test]
    fn an_error_that_says_its_cause_itself_is_found_at_any_depth() {
        let open = |text| Layer("cannot start", Some(Box::new(Layer(text, disk()))));
        assert_eq!(repeated(&open("cannot open")), None);
        assert_eq!(repeated(&open("no such disk, so it is not opened")).unwrap(), "no such disk, so it is not opened");
    }
}
