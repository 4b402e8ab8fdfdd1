//! Links between endpoints of one process, on loopback.
