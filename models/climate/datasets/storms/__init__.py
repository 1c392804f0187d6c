"""Hurricane tracks and intensities from HURDAT2 best tracks, as CF contiguous ragged arrays."""
