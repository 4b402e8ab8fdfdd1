//! The answers to `get-servers` and `config get cluster`.
