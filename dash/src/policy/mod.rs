//! Pure rules: budgets and retries. No IO, no clock, no channels.
