"""The Probe inside training frameworks: `hosts.lightning` and `hosts.transformers`."""
