"""Operations with backward passes of their own, which keep little: what the compact Multi-Modal Adapter is made of."""
