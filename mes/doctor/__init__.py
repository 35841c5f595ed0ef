"""`mes doctor`: looks at a whole deployment, changes nothing, and says for each finding what to do about it."""
