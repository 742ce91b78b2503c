"""Types that every layer shares; standard library only, so importing them costs nothing."""
