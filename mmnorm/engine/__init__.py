"""What plugs into mmengine: hooks, the optimizer constructor, a sampler, a file backend, and BN statistics anew."""
