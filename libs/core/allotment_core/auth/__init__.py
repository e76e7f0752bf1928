"""Who calls: principals and their tokens.

`principal` needs no third party, `tokens` needs PyJWT.
"""
