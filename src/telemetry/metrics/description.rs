//! What a family of metrics is: said once, for the registry, for collectors and for the documentation.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// How the samples of a family are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Any value.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Its name as it is scraped. That of a counter ends with `_total`.
    pub name: &'static str,
    /// How it is read.
    pub kind: Kind,
    /// Its labels beside `process`, which all have.
    pub labels: &'static [&'static str],
    /// What it is, in a sentence without its full stop.
    pub help: &'static str,
}

impl Description {
    pub(super) const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    pub(super) const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    pub(super) const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, labels, help }
    }

    /// The name without the ending that the encoder adds.
    pub(super) fn stem(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}

/// Writes the samples of one family, for collectors.
pub struct FamilyEncoder<'a> {
    labels: &'static [&'static str],
    encoder: MetricEncoder<'a>,
}

impl<'a> FamilyEncoder<'a> {
    /// Begins a family.
    ///
    /// # Errors
    /// When the text takes no more.
    pub fn begin(encoder: &'a mut DescriptorEncoder<'_>, description: &Description) -> Result<Self, fmt::Error> {
        let encoder =
            encoder.encode_descriptor(description.stem(), &format!("{}.", description.help), None, description.metric_type())?;
        Ok(Self { labels: description.labels, encoder })
    }

    /// Writes the sample of a gauge, whose labels have these values in the order of the description.
    ///
    /// # Errors
    /// When the text takes no more.
    pub fn gauge(&mut self, values: &[&str], value: f64) -> Result<(), fmt::Error> {
        let labels: Vec<(&str, &str)> = self.labels.iter().copied().zip(values.iter().copied()).collect();
        ConstGauge::new(value).encode(self.encoder.encode_family(&labels)?)
    }

    /// Writes the sample of a counter.
    ///
    /// # Errors
    /// When the text takes no more.
    pub fn counter(&mut self, values: &[&str], value: f64) -> Result<(), fmt::Error> {
        let labels: Vec<(&str, &str)> = self.labels.iter().copied().zip(values.iter().copied()).collect();
        prometheus_client::metrics::counter::ConstCounter::new(value).encode(self.encoder.encode_family(&labels)?)
    }
}
