//! What operators look at: views and the functions behind them.
