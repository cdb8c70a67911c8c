"""The papers' experiments: experiments.yaml, how a row is built and run, and what came of it beside the paper."""
