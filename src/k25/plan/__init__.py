"""Will it fit? Arithmetic on a configuration: footprint (bytes of everything), layout (who holds what), verdicts."""
