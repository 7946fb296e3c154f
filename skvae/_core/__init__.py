"""What every part of skvae may import: batches, components, densities, streams, flat parameters."""
