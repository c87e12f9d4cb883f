//! The one HTTP client of the sources.
