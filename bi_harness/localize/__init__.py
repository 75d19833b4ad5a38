"""Which module broke it: the smallest failing pair of a check, watched on a real engine module by module."""
