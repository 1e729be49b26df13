"""`roomcast doctor`: looks at this machine and its networks with clients that are not ours, and says what to do."""
