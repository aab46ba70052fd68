"""Networks, and what goes into them: blocks, decoders, teachers, positions, corruption, diffusion."""
