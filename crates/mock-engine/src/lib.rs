//! wharf-mock-engine
