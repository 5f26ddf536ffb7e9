//! One line of a table of checks, with advice.

use anstyle::AnsiColor;
use serde::{Serialize, Serializer};

use super::table::Table;
use crate::fault::{Class, Fault};
use crate::report;

/// One line of a table.
#[derive(Serialize)]
pub(super) struct Finding {
    verdict: Verdict,
    subject: String,
    detail: String,
    advice: Option<String>,
}

enum Verdict {
    Ok,
    /// For information only.
    Note,
    Warning,
    Problem(Class),
}

impl Finding {
    pub(super) fn ok(subject: &str, detail: String) -> Finding {
        Finding { verdict: Verdict::Ok, subject: subject.to_owned(), detail, advice: None }
    }

    pub(super) fn note(subject: &str, detail: String) -> Finding {
        Finding { verdict: Verdict::Note, subject: subject.to_owned(), detail, advice: None }
    }

    pub(super) fn warning(subject: &str, detail: String, advice: String) -> Finding {
        Finding { verdict: Verdict::Warning, subject: subject.to_owned(), detail, advice: Some(advice) }
    }

    pub(super) fn problem(subject: &str, error: &dyn Fault) -> Finding {
        let detail = report::chain(error);
        Finding { verdict: Verdict::Problem(error.class()), subject: subject.to_owned(), detail, advice: error.hint() }
    }

    /// A problem that no error describes.
    pub(super) fn problem_with(class: Class, subject: &str, detail: String, advice: String) -> Finding {
        Finding { verdict: Verdict::Problem(class), subject: subject.to_owned(), detail, advice: Some(advice) }
    }

    /// Drops the advice if it is not wanted.
    pub(super) fn retain_advice(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.advice.take_if(|advice| !is_wanted(advice));
    }

    /// The class, if it is a problem.
    pub(super) fn class(&self) -> Option<Class> {
        match self.verdict {
            Verdict::Problem(class) => Some(class),
            _ => None,
        }
    }

    pub(super) fn write(&self, table: &mut Table) {
        table.verdict(self.verdict.word(), self.verdict.colour(), format_args!("{}: {}", self.subject, self.detail));
        if let Some(advice) = &self.advice {
            table.line(format_args!("{:<8} -> {advice}", ""));
        }
    }
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warning => "warning",
            Verdict::Problem(_) => "problem",
        }
    }

    fn colour(&self) -> AnsiColor {
        match self {
            Verdict::Ok => AnsiColor::Green,
            Verdict::Note => AnsiColor::Cyan,
            Verdict::Warning => AnsiColor::Yellow,
            Verdict::Problem(_) => AnsiColor::Red,
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}
