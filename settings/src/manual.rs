//! The reference in `docs/settings.md`.
